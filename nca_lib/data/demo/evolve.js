/* Evolution strategies in JavaScript: what nca_lib/evolution.py says, under the same names.

   ES (this file) has the strategies as plain functions: ask, tell, look. Rollout (rollout.js) is
   the fast life and its loss, NCA (nca.js) the readable rule, records and links. Evolution
   (crew.js) is what a page uses; it shares the population among workers:

   const evolution = Evolution.create(settings, target, handlers);

     settings   whatever differs from Evolution.DEFAULTS, the preset `quick`, under the names of
                nca_lib/lab/config.py: size, padding, channels, hidden, step_size,
                alive_threshold, mask ("paired", "bernoulli"), num_steps, window, population,
                strategy ("whitened", "pgpe", "open_es"), std, std_rate, learning_rate,
                learning_rate_end, generations (the length of the schedule; evolution goes on),
                seed. Three more are true and may be false: ranks, pairs, shared_luck. `emoji` and
                `title` go into records.
     target     Float32Array, side * side * 4, premultiplied RGBA in 0 to 1, row by row;
                side = size + 2 * padding.
     handlers   {workers, weights, gpu, onGeneration(report), onState(state), onError(error)}, all
                optional. workers: how many, default Evolution.cores() (cores less one, at most
                8); 0 computes in this thread, in slices. weights: Float32Array to start from.
                gpu: "off" (default); "auto" computes on the graphics card where two generations,
                done both ways, come to the same and the second is faster there; "on" even where
                it is slower, or in software. A card rounds in its own way: with it a history is no longer the
                same on every machine.

   It throws an Error whose message says in words which setting is wrong.
   Evolution.check(settings) does so alone, and returns the settings completed;
   Evolution.emptyLoss(target) is what an empty grid would score. Evolution.LIMITS has [low, high]
   of every number. Evolution.LIVE is a Set of names that may change while it
   runs; all others need a new start. Evolution.DEAD and Evolution.EXPLODED are settings that end
   so on purpose.

     evolution.run()             goes on until paused; pause() ends after this generation.
     evolution.step()            one generation; a promise of its report.
     evolution.change({...})     names of LIVE, from the next generation on.
     evolution.stop()            for good: ends the workers.
     evolution.become(state)     after pause(), where a page itself finds that a run has failed.
     evolution.state             "idle", "running", "paused", "dead", "exploded"
     evolution.card              "off", "trying", "on"; "none", "differs", "slower", "lost" where the
                                 workers go on; .cardTrouble says in words why there is none.
     evolution.settings, .target, .empty (loss of the empty grid), .workers (how many there are),
     .generation, .rollouts, .seconds (while running), .loss (of the mean, when last measured;
     NaN before), .mean (Float32Array, the weights), .history: an array of
     {generation, rollouts, seconds, loss, sigma}, a row for every measurement.

   After dead or exploded it has stopped; run() tries another generation, and then the next.

   report: {generation, rollouts, seconds, loss, measured, fitness, best, median, sigma, rate,
   mean, pictures}. generation counts those done. fitness: Float32Array of the members,
   Infinity where not finite; best, median of it. loss: of the mean, over 8 fresh lives, from the
   first ten generations and every tenth after; `measured` says whether it is new. sigma: the mean
   noise of a weight. rate: rollouts a second, over the last seconds. pictures: null or, at most
   every Evolution.PICTURES milliseconds and when a run has ended, Uint8ClampedArray of
   (population, side, side, 4) straight RGBA, the last step of each member's life, best to worst:
   new ImageData(pictures.subarray(k * n, (k + 1) * n), side) with n = 4 * side * side.

     evolution.model()           for NCA.step and the player, see NCA.open.
     evolution.toRecord(told)    a plain object, JSON of which is NAME.nca.json; told: {name,
                                 title, emoji}, all optional.

   Files and links (record.js). All errors say in words what is wrong:

     NCA.open(record)            a model: what NCA.decode gives, and size, padding, num_steps,
                                 window, target (Float32Array, or null), and weights (Float32Array,
                                 all in a row, to start an evolution from).
     NCA.encode(model, told)     the way back: a record. told replaces name, title, emoji, target.
     NCA.readRecord(text)        of a file's text a record, for NCA.open.
     NCA.toLink(model)           "p=...&channels=8&hidden=32&...", to stand behind "#".
     NCA.fromLink(hash)          a model; null where there is no p. */
var ES = (() => {
  "use strict";

  /* -- Random numbers: the same in every browser ------------------------------------------------

     sfc32 (Chris Doty-Humphrey, PractRand, public domain), in whole numbers of 32 bits. Each
     purpose has a stream of its own, by seed, generation, purpose and number: what is drawn does
     not depend on who draws, or in which order. */
  const [WEIGHTS, NOISE, LUCK, MEASURE] = [0, 1, 2, 3]; // purposes

  function makeBits(seed, generation, purpose, index = 0) {
    let [a, b, c, counter] = [seed | 0, generation | 0, (purpose << 24) | index, 1];
    const bits = () => {
      const sum = (a + b + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + sum) | 0;
      return sum >>> 0;
    };
    for (let i = 0; i < 15; i++) bits();
    return bits;
  }

  /* The natural logarithm in plain arithmetic, to nine digits: Math.log differs among browsers in
     the last bit, and evolution would make a lizard of another history of that. */
  function log(x) {
    let [m, exponent] = [x, 0];
    while (m < 0.7) [m, exponent] = [2 * m, exponent - 1];
    const t = (m - 1) / (m + 1);
    const u = t * t;
    const series = 1 + u * (1 / 3 + u * (1 / 5 + u * (1 / 7 + u * (1 / 9 + u / 11))));
    return 2 * t * series + exponent * Math.LN2;
  }

  /* Fill an array with standard normal numbers: Marsaglia's polar method. */
  function fillNormal(bits, numbers) {
    for (let i = 0; i < numbers.length; i += 2) {
      let x, y, s;
      do {
        x = (bits() + 0.5) / 2147483648 - 1;
        y = (bits() + 0.5) / 2147483648 - 1;
        s = x * x + y * y;
      } while (s >= 1);
      const scale = Math.sqrt((-2 * log(s)) / s);
      numbers[i] = x * scale;
      if (i + 1 < numbers.length) numbers[i + 1] = y * scale;
    }
    return numbers;
  }

  /* -- The state of a search --------------------------------------------------------------------

     Weights lie in the order of nca.js. So each layer is a matrix, with a row for each input and
     one for the bias, and a column for each output: `rows` of evolution.py. */
  function layersOf({ channels, hidden }) {
    const first = { start: 0, rows: 3 * channels + 1, columns: hidden };
    return [first, { start: first.rows * hidden, rows: hidden + 1, columns: channels }];
  }

  const countWeights = (settings) =>
    layersOf(settings).reduce((sum, { rows, columns }) => sum + rows * columns, 0);

  /* Random weights of the first layer, none of the second: a rule that leaves all as it is. */
  function initialWeights(settings) {
    const weights = new Float32Array(countWeights(settings));
    const count = 3 * settings.channels * settings.hidden;
    fillNormal(makeBits(settings.seed, 0, WEIGHTS), weights.subarray(0, count));
    const scale = Math.sqrt(1 / (3 * settings.channels));
    for (let i = 0; i < count; i++) weights[i] *= scale;
    return weights;
  }

  function init(settings, weights = initialWeights(settings)) {
    const mean = Float64Array.from(weights);
    const spread = settings.strategy === "whitened" ? Math.min(1, Math.sqrt(1064 / mean.length)) : 1;
    const layers = layersOf(settings);
    return {
      generation: 0,
      mean,
      std: mean.map(() => settings.std * spread),
      momentum: mean.map(() => 0), // of the steps; of Adam, of the gradient
      square: mean.map(() => 0), // Adam's second moment,
      start: [1, 1], // and the share of its start in both
      layers,
      inputs: layers.map(({ rows }) => identity(rows)), // from `whitener`
      outputs: layers.map(({ columns }) => identity(columns)), // from `mix`
    };
  }

  /* -- Ask --------------------------------------------------------------------------------------

     The noise of one pair, or with `pairs` off of one member, standard normal. */
  function noiseOf(settings, state, index) {
    const bits = makeBits(settings.seed, state.generation, NOISE, index);
    return fillNormal(bits, new Float64Array(state.mean.length));
  }

  const countDraws = ({ population, pairs }) => (pairs ? population / 2 : population);

  /* How far noise takes the weights. */
  const shake = (settings, state, noise) =>
    whiten(settings, state, noise.map((z, d) => state.std[d] * z));

  /* The weights of a member, float32; with a sign of -1 those of its mirror image. Members i and
     i + population / 2 are such a pair. */
  const member = (state, shaken, sign = 1) =>
    Float32Array.from(state.mean, (mean, d) => mean + sign * shaken[d]);

  /* Which cells fire for a member: shared luck is that of member 0 for all. */
  function luck(settings, state, index) {
    const number = settings.shared_luck ? 0 : index;
    return Rollout.fireSchedule(makeBits(settings.seed, state.generation, LUCK, number), settings);
  }

  /* -- Tell ------------------------------------------------------------------------------------ */

  /* Centred ranks from -1/2, the best, to 1/2; equals share theirs. Without ranks the fitness
     itself, moved and scaled to the mean and the standard deviation that ranks have. */
  function shape(fitness, ranked = true) {
    const count = fitness.length;
    if (ranked) {
      return Float64Array.from(fitness, (own) => {
        let places = -1; // twice the rank: those it beats, and half of those it equals
        for (const other of fitness) places += (other < own ? 1 : 0) + (other <= own ? 1 : 0);
        return places / 2 / (count - 1) - 0.5;
      });
    }
    const worst = fitness.reduce((max, f) => (f < Infinity && f > max ? f : max), 0);
    const finite = Float64Array.from(fitness, (f) => Math.min(f, worst));
    const mean = finite.reduce((sum, f) => sum + f, 0) / count;
    const variance = finite.reduce((sum, f) => sum + (f - mean) * (f - mean), 0) / count;
    const scale = variance > 0 ? Math.sqrt((count + 1) / (12 * (count - 1)) / variance) : 0;
    return finite.map((f) => (f - mean) * scale);
  }

  /* Learn from a generation, in place. `noiseAt` gives the noise of each draw; lower is better. What
     may take long yields in between. */
  function* tell(settings, state, fitness, noiseAt = (i) => noiseOf(settings, state, i)) {
    const [shaped, count] = [shape(fitness, settings.ranks), fitness.length];
    const draws = countDraws(settings);
    const average = shaped.reduce((sum, r) => sum + r, 0) / draws;
    const gradient = state.mean.map(() => 0);
    const stdGradient = state.mean.map(() => 0);
    const change = state.outputs.map((outputs) => outputs.map(() => 0));
    const mixes = settings.strategy === "whitened";
    for (let i = 0; i < draws; i++) {
      const noise = noiseAt(i);
      const mirrored = settings.pairs ? shaped[i + draws] : 0;
      const slope = (shaped[i] - mirrored) / count;
      const worth = (average - shaped[i] - mirrored) / count; // more than the others
      for (let d = 0; d < noise.length; d++) {
        gradient[d] += slope * noise[d];
        stdGradient[d] -= worth * (noise[d] * noise[d] - 1);
      }
      if (mixes) state.layers.forEach((layer, l) => addProducts(change[l], noise, layer, worth));
      yield;
    }
    const rate = learningRate(settings, state.generation);
    if (settings.strategy === "open_es") adam(state, gradient, rate);
    else descend(settings, state, gradient, stdGradient, rate);
    if (mixes) state.outputs = state.outputs.map((outputs, l) => mix(outputs, change[l]));
    state.generation++;
  }

  /* PGPE: a step of the mean with momentum 0.9, and one of each sigma, of a fifth at most. */
  function descend(settings, state, gradient, stdGradient, rate) {
    const { mean, std, momentum } = state;
    const steps = whiten(settings, state, gradient.map((g, d) => std[d] * g));
    for (let d = 0; d < mean.length; d++) {
      momentum[d] = steps[d] + 0.9 * momentum[d];
      mean[d] -= rate * momentum[d];
      const next = std[d] - settings.std_rate * std[d] * stdGradient[d];
      std[d] = Math.min(Math.max(next, 0.8 * std[d]), 1.2 * std[d]);
    }
  }

  /* OpenAI-ES: a step of Adam; sigma stays. */
  function adam(state, gradient, rate) {
    const { mean, std, momentum, square, start } = state;
    start[0] *= 0.9;
    start[1] *= 0.999;
    for (let d = 0; d < mean.length; d++) {
      const slope = gradient[d] / std[d];
      momentum[d] = 0.9 * momentum[d] + 0.1 * slope;
      square[d] = 0.999 * square[d] + 0.001 * slope * slope;
      const size = Math.sqrt(square[d] / (1 - start[1])) + 1e-8;
      mean[d] -= (rate * momentum[d]) / (1 - start[0]) / size;
    }
  }

  /* How large a step: it falls along a cosine to a share of what it was. */
  function learningRate({ learning_rate, learning_rate_end: share, generations }, generation) {
    const angle = Math.PI * (Math.min(generation, generations) / generations - 0.5);
    let [term, sine] = [angle, angle]; // the cosine is the sine of a right angle less; its series
    for (let k = 2; k < 24; k += 2) sine += term *= (-angle * angle) / (k * (k + 1));
    return learning_rate * ((1 - share) * 0.5 * (1 - sine) + share);
  }

  /* -- Whitening -------------------------------------------------------------------------------

     A layer's noise passes through the inverse root of the second moment of its inputs, and
     through a mixing of its outputs that is learned: inputs @ Z @ outputs. */
  const [LOOK, DAMPING, MIX_RATE] = [50, 0.03, 0.3];

  function whiten(settings, state, noise) {
    if (settings.strategy !== "whitened") return noise;
    const shaped = new Float64Array(noise.length);
    state.layers.forEach(({ start, rows, columns }, l) => {
      const matrix = noise.subarray(start, start + rows * columns);
      const turned = multiply(state.inputs[l], matrix, rows);
      shaped.set(multiply(turned, state.outputs[l], columns), start);
    });
    return shaped;
  }

  /* In every 50th generation, fit the noise anew to what the cells of the mean see. `moments`
     maps weights to those of Rollout. Where nothing is to be seen the noise stays. */
  function* look(settings, state, moments) {
    if (settings.strategy !== "whitened" || state.generation % LOOK) return;
    const seen = yield* moments(Float32Array.from(state.mean));
    for (let l = 0; l < seen.length; l++) {
      state.inputs[l] = yield* whitener(seen[l], state.inputs[l]);
    }
  }

  /* The inverse root of a second moment, symmetric, damped where there is next to nothing. */
  function* whitener(moment, otherwise) {
    if (!moment.every(Number.isFinite)) return otherwise;
    const [values, vectors] = yield* eigen(moment);
    const n = values.length;
    const average = values.reduce((sum, value) => sum + value, 0) / n;
    const gain = values.map((value) => 1 / Math.sqrt(Math.max(value, 0) / average + DAMPING));
    const power = gain.reduce((sum, g) => sum + g * g, 0) / n;
    const scaled = vectors.map((value, k) => (value * gain[Math.floor(k / n)]) / Math.sqrt(power));
    return multiply(transpose(vectors, n), scaled, n);
  }

  /* Learn which outputs of a layer to shake together: a step, and the size of the noise stays. */
  function mix(outputs, change) {
    const n = Math.sqrt(outputs.length);
    let trace = 0;
    for (let k = 0; k < n; k++) trace += change[k * n + k];
    const centred = change.map((value, k) => value - (k % (n + 1) ? 0 : trace / n));
    const step = multiply(outputs, centred, n);
    return outputs.map((value, k) => value + (MIX_RATE / 2) * step[k]);
  }

  /* Add Z^T Z of a layer's noise, by its worth, averaged over the layer's inputs. */
  function addProducts(sum, noise, { start, rows, columns }, worth) {
    for (let i = 0; i < rows; i++) {
      const first = start + i * columns;
      for (let j = 0, k = 0; j < columns; j++) {
        const value = (worth * noise[first + j]) / rows;
        for (let m = 0; m < columns; m++) sum[k++] += value * noise[first + m];
      }
    }
  }

  /* Eigenvalues of a symmetric matrix, and eigenvectors in rows: Jacobi's turns of two axes at a
     time, each of which makes one number beside the diagonal zero, until all of them are. */
  function* eigen(symmetric) {
    const n = Math.sqrt(symmetric.length);
    const [a, vectors] = [symmetric.slice(), identity(n)];
    for (let sweep = 0, rest = 1; sweep < 30 && rest > 0; sweep++) {
      rest = 0;
      for (let p = 0; p < n; p++) {
        yield;
        for (let q = p + 1; q < n; q++) {
          const [beside, size] = [a[p * n + q], Math.abs(a[p * n + p]) + Math.abs(a[q * n + q])];
          if (Math.abs(beside) <= 1e-15 * size) continue;
          rest++;
          const theta = (a[q * n + q] - a[p * n + p]) / (2 * beside);
          const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
          const cos = 1 / Math.sqrt(t * t + 1);
          turn(a, p, q, n, n, cos, t * cos); // columns
          turn(a, p * n, q * n, n, 1, cos, t * cos); // and rows
          turn(vectors, p * n, q * n, n, 1, cos, t * cos);
        }
      }
    }
    return [Float64Array.from({ length: n }, (_, k) => a[k * n + k]), vectors];
  }

  /* Turn two rows or columns of a matrix into one another, of n numbers that are `stride` apart. */
  function turn(matrix, p, q, n, stride, cos, sin) {
    for (let k = 0; k < n * stride; k += stride) {
      const [x, y] = [matrix[p + k], matrix[q + k]];
      matrix[p + k] = cos * x - sin * y;
      matrix[q + k] = sin * x + cos * y;
    }
  }

  /* The product of two matrices laid out row by row, `inner` numbers of each making one. */
  function multiply(left, right, inner) {
    const columns = right.length / inner;
    const product = new Float64Array((left.length / inner) * columns);
    for (let i = 0, k = 0; i < product.length; i += columns) {
      for (let m = 0; m < right.length; m += columns) {
        const value = left[k++];
        for (let j = 0; j < columns; j++) product[i + j] += value * right[m + j];
      }
    }
    return product;
  }

  const identity = (n) => Float64Array.from({ length: n * n }, (_, k) => (k % (n + 1) ? 0 : 1));
  const transpose = (a, n) => a.map((_, k) => a[(k % n) * n + Math.floor(k / n)]);

  /* The noise scale of every weight: variances add up. */
  function std(settings, state) {
    if (settings.strategy !== "whitened") return state.std;
    const squared = (matrices) => matrices.map((matrix) => matrix.map((x) => x * x));
    const squares = { layers: state.layers, inputs: squared(state.inputs) };
    squares.outputs = squared(state.outputs);
    return whiten(settings, squares, state.std.map((x) => x * x)).map(Math.sqrt);
  }

  return {
    LUCK, MEASURE, makeBits, fillNormal, countWeights, initialWeights, init, noiseOf,
    countDraws, shake, member, luck, shape, tell, learningRate, look, whitener, std,
  };
})();
