/* Many lives, fast: what nca_lib/rollout.py and loss.py say, made for evolution in a page.

   The rule is that of nca.js, to rounding; here it trades being read for speed. The grid has a
   border of zeros, so that no cell has to ask where it ends. Only cells that live are computed,
   within the box that life has reached; who is next to them only where their new alpha decides
   whether another lives. Two cells go through the network side by side, four hidden units at a
   time: eight sums, which fit into the registers, and every weight is fetched once for both.
   Sums are of float64, states float32. No numbers but + - * / and comparisons: every browser
   computes the same. One global, Rollout. */
var Rollout = (() => {
  "use strict";

  /* A place for lives, one after the other; `settings` as in Evolution.DEFAULTS. */
  function makeWorld(settings, target) {
    const { channels: C, hidden, step_size, alive_threshold, size, padding } = settings;
    const side = size + 2 * padding;
    const stride = side + 2; // of the padded grid
    const units = 4 * Math.ceil(hidden / 4);
    const answers = 4 * Math.ceil(C / 4);
    const inputs = 3 * C;
    const limit = Math.fround(alive_threshold);
    const area = stride * stride;
    const cells = new Float32Array(area * C);
    const change = new Float64Array(area * C); // of this step, where `fires` and alive
    const mature = new Uint8Array(area); // alpha above the limit
    const grown = new Uint8Array(area); // the same after this step
    const alive = new Uint8Array(area); // or next to one
    const known = new Uint8Array(area); // whether `grown` is, of cells around the living
    const living = new Int32Array(area); // indices
    const firing = new Int32Array(area + 1);
    // The network: each layer in groups of four outputs, with four weights for each input.
    const first = new Float64Array(units * inputs);
    const firstBias = new Float64Array(units);
    const second = new Float64Array(units * answers);
    const secondBias = new Float64Array(answers);
    const [see0, see1] = [new Float64Array(inputs), new Float64Array(inputs)];
    const [hidden0, hidden1] = [new Float64Array(units), new Float64Array(units)];
    const [sum0, sum1] = [new Float64Array(answers), new Float64Array(answers)];
    const dies = new Uint8Array(area);
    const around = new Int32Array(area); // cells that `known` marks
    const box = new Int32Array(4); // rows and columns of the mature: top, bottom, left, right
    // Survivors thanks to a cell that has come alive next to them, but too late to stay: they are
    // not among the living of the next step, and are seen once more.
    const lingering = new Int32Array(2 * area);
    let lingers = 0;
    let active = 0; // how many fire
    let asked = 0; // how many are known

    function setWeights(weights) {
      let w = 0;
      for (let i = 0; i < inputs; i++) {
        const scale = i < C ? 1 : 1 / 8; // of the derivatives, which `see` leaves out
        for (let j = 0; j < hidden; j++) {
          first[((j >> 2) * inputs + i) * 4 + (j & 3)] = scale * weights[w++];
        }
      }
      for (let j = 0; j < hidden; j++) firstBias[j] = weights[w++];
      for (let i = 0; i < hidden; i++) {
        for (let c = 0; c < C; c++) {
          second[((c >> 2) * units + i) * 4 + (c & 3)] = 0.5 * weights[w++]; // see `think`
        }
      }
      for (let c = 0; c < C; c++) secondBias[c] = weights[w++];
    }

    function plant() {
      cells.fill(0);
      mature.fill(0);
      alive.fill(0);
      lingers = 0;
      const middle = side >> 1;
      const seed = (middle + 1) * stride + middle + 1;
      cells[seed * C + C - 1] = 1;
      mature[seed] = 1;
      box.fill(middle + 1);
    }

    /* Show what has grown elsewhere: (H, W, C), row by row. */
    function setCells(grown) {
      const row = side * C;
      for (let y = 0; y < side; y++) {
        cells.set(grown.subarray(y * row, (y + 1) * row), ((y + 1) * stride + 1) * C);
      }
    }

    /* What the cell at k perceives, into `seen`. */
    function see(k, seen) {
      const down = stride * C;
      let here = k * C;
      for (let c = 0; c < C; c++, here++) {
        const above = here - down;
        const below = here + down;
        const falling = cells[below + C] - cells[above - C];
        const rising = cells[below - C] - cells[above + C];
        seen[c] = cells[here];
        seen[C + c] = falling + rising + 2 * (cells[below] - cells[above]);
        seen[2 * C + c] = falling - rising + 2 * (cells[here + C] - cells[here - C]);
      }
    }

    /* Two cells think: see0 and see1 become sum0 and sum1. */
    function think() {
      layer(first, firstBias, inputs, see0, see1, hidden0, hidden1);
      for (let j = 0; j < units; j++) {
        hidden0[j] += Math.abs(hidden0[j]); // twice the relu, and nothing to decide:
        hidden1[j] += Math.abs(hidden1[j]); // half of these branches would be mispredicted
      }
      layer(second, secondBias, units, hidden0, hidden1, sum0, sum1);
    }

    /* Whether the cell at k, next to the living, is mature after this step. */
    function stirs(k, fires) {
      if (!known[k]) {
        known[k] = 1;
        around[asked++] = k;
        grown[k] = 0;
        if (fires[k]) {
          see(k, see0);
          think();
          const alpha = cells[(k + 1) * C - 1] + step_size * sum0[C - 1];
          grown[k] = Math.fround(alpha) > limit ? 1 : 0;
        }
      }
      return grown[k];
    }

    /* Whether the living cell at k, or one next to it, is mature after this step. */
    function survives(k, fires) {
      for (let row = k - stride; row <= k + stride; row += stride) {
        for (let n = row - 1; n <= row + 1; n++) if (alive[n] && grown[n]) return true;
      }
      for (let row = k - stride; row <= k + stride; row += stride) {
        for (let n = row - 1; n <= row + 1; n++) {
          if (alive[n] || !stirs(n, fires)) continue;
          lingering[lingers++] = k;
          return true;
        }
      }
      return false;
    }

    /* List the living, and those of them that fire; how many there are. */
    function gather(fires) {
      const [top, bottom] = [Math.max(1, box[0] - 1), Math.min(side, box[1] + 1)];
      const [left, right] = [Math.max(1, box[2] - 1), Math.min(side, box[3] + 1)];
      let count = 0;
      active = 0;
      for (let row = top; row <= bottom; row++) {
        for (let k = row * stride + left; k <= row * stride + right; k++) {
          const up = k - stride;
          const down = k + stride;
          const lives = mature[k] | mature[k - 1] | mature[k + 1] |
            mature[up] | mature[up - 1] | mature[up + 1] |
            mature[down] | mature[down - 1] | mature[down + 1];
          if (!lives) continue;
          alive[k] = 1;
          living[count++] = k;
          if (fires[k]) firing[active++] = k;
          else grown[k] = mature[k];
        }
      }
      firing[active] = firing[active - 1]; // in pairs: an odd one twice
      return count;
    }

    /* One step. `fires` has a number for each cell of the padded grid, 0 all along the border. */
    function step(fires) {
      const count = gather(fires);
      for (let n = 0; n < active; n += 2) {
        const one = firing[n];
        const two = firing[n + 1];
        see(one, see0);
        see(two, see1);
        think();
        keep(one, sum0);
        keep(two, sum1);
      }
      const before = lingers;
      asked = 0;
      for (let n = 0; n < count; n++) dies[n] = survives(living[n], fires) ? 0 : 1;
      for (let n = 0; n < lingers; n++) {
        const k = lingering[n];
        if (n >= before) lingering[n - before] = k;
        else if (!alive[k]) cells.fill(0, k * C, (k + 1) * C);
      }
      lingers -= before;
      box[0] = box[2] = stride;
      box[1] = box[3] = 0;
      for (let n = 0; n < count; n++) settle(living[n], dies[n], fires);
      for (let n = 0; n < asked; n++) known[around[n]] = 0;
      return count;
    }

    function keep(k, sum) {
      const start = k * C;
      for (let c = 0; c < C; c++) change[start + c] = step_size * sum[c];
      const alpha = start + C - 1;
      grown[k] = Math.fround(cells[alpha] + change[alpha]) > limit ? 1 : 0;
    }

    function settle(k, dead, fires) {
      alive[k] = 0;
      const start = k * C;
      if (dead) cells.fill(0, start, start + C);
      else if (fires[k]) for (let c = start; c < start + C; c++) cells[c] += change[c];
      mature[k] = dead ? 0 : grown[k];
      if (mature[k]) widen(k);
    }

    /* Take the mature cell at k into the box. */
    function widen(k) {
      const row = Math.floor(k / stride);
      const column = k - row * stride;
      if (row < box[0]) box[0] = row;
      if (row > box[1]) box[1] = row;
      if (column < box[2]) box[2] = column;
      if (column > box[3]) box[3] = column;
    }

    /* See who is mature, after cells were erased. Who is left without a living neighbour lingers. */
    function recount() {
      box[0] = box[2] = stride;
      box[1] = box[3] = 0;
      lingers = area;
      for (let k = 0; k < area; k++) {
        mature[k] = cells[(k + 1) * C - 1] > limit ? 1 : 0;
        if (mature[k]) widen(k);
        lingering[k] = k;
      }
    }

    /* Mean squared error of red, green, blue and alpha, over all cells: nca_lib.loss.mse. */
    function mse() {
      let sum = 0;
      for (let row = 0, t = 0; row < side; row++) {
        let k = ((row + 1) * stride + 2) * C - 4;
        for (let column = 0; column < side; column++, k += C) {
          for (let c = 0; c < 4; c++) {
            const wrong = cells[k + c] - target[t++];
            sum += wrong * wrong;
          }
        }
      }
      return sum / target.length;
    }

    /* Grow from the seed and measure, over the last `window` steps: window_loss. `fires` has an
       array for each step. What is not finite as float32 is Infinity. Yields after each step, for
       those who have other things to do. */
    function* live(weights, fires, window) {
      setWeights(weights);
      plant();
      let total = 0;
      for (let t = 0; t < fires.length; t++) {
        step(fires[t]);
        if (t >= fires.length - window) total += mse();
        yield;
      }
      const loss = Math.fround(total / window);
      return Number.isFinite(loss) ? loss : Infinity;
    }

    /* Average x x^T of what enters each layer, over the living cells of a life, with the bias' 1
       last: second_moments. Two square matrices, row by row; NaN where nothing was to be seen. */
    function* moments(weights, fires) {
      setWeights(weights);
      plant();
      const seen = new Float64Array(inputs + 1).fill(1);
      const thought = new Float64Array(hidden + 1).fill(1);
      const sums = [seen, thought].map((x) => new Float64Array(x.length * x.length));
      let total = 0;
      const start = cells.slice();
      for (const fire of fires) {
        const count = gather(fire);
        total += count;
        for (let n = 0; n < count; n++) {
          see(living[n], see0);
          think();
          for (let i = 0; i < inputs; i++) seen[i] = i < C ? see0[i] : see0[i] / 8;
          for (let j = 0; j < hidden; j++) thought[j] = hidden0[j] / 2;
          addSquare(sums[0], seen);
          addSquare(sums[1], thought);
        }
        step(fire);
        yield;
      }
      const fine = gather(fires[0]) > 0 && start.some((value, i) => value !== cells[i]);
      return sums.map((sum) => sum.map((value) => (fine ? value / total : NaN)));
    }

    /* The last step as a picture: straight RGBA in 0 to 255. */
    function draw() {
      const pixels = new Uint8ClampedArray(4 * side * side);
      for (let row = 0, t = 0; row < side; row++) {
        let k = ((row + 1) * stride + 2) * C - 4;
        for (let column = 0; column < side; column++, k += C, t += 4) {
          const alpha = Math.min(Math.max(cells[k + 3], 0), 1) || 0;
          for (let c = 0; c < 3; c++) pixels[t + c] = alpha ? (255 * cells[k + c]) / alpha : 0;
          pixels[t + 3] = 255 * alpha;
        }
      }
      return pixels;
    }

    const steps = { plant, recount, step, live, moments };
    return { area, stride, side, cells, setCells, setWeights, mse, draw, ...steps };
  }

  /* Which cells fire, an array for each step, of the padded grid: fire_schedule. `bits` gives 32
     random bits. */
  function fireSchedule(bits, { size, padding, num_steps, mask }) {
    const side = size + 2 * padding;
    const stride = side + 2;
    let [coins, left] = [0, 0];
    const coin = () => {
      if (left-- === 0) [coins, left] = [bits(), 31];
      return (coins >>> left) & 1;
    };
    return Array.from({ length: num_steps }, () => {
      const fire = new Uint8Array(stride * stride);
      for (let row = 1; row <= side; row++) {
        for (let k = row * stride + 1; k <= row * stride + side; k += mask === "paired" ? 2 : 1) {
          if (mask === "paired") fire[k + coin()] = 1;
          else fire[k] = coin();
        }
      }
      return fire;
    });
  }

  /* One dense layer for two cells side by side, x -> a and y -> b. */
  function layer(weights, biases, inputs, x, y, a, b) {
    let w = 0;
    for (let j = 0; j < biases.length; j += 4) {
      let a0 = biases[j];
      let a1 = biases[j + 1];
      let a2 = biases[j + 2];
      let a3 = biases[j + 3];
      let b0 = a0;
      let b1 = a1;
      let b2 = a2;
      let b3 = a3;
      for (let i = 0; i < inputs; i++, w += 4) {
        const one = x[i];
        const two = y[i];
        const w0 = weights[w];
        const w1 = weights[w + 1];
        const w2 = weights[w + 2];
        const w3 = weights[w + 3];
        a0 += one * w0; b0 += two * w0;
        a1 += one * w1; b1 += two * w1;
        a2 += one * w2; b2 += two * w2;
        a3 += one * w3; b3 += two * w3;
      }
      a[j] = a0; a[j + 1] = a1; a[j + 2] = a2; a[j + 3] = a3;
      b[j] = b0; b[j + 1] = b1; b[j + 2] = b2; b[j + 3] = b3;
    }
  }

  /* Add x x^T to a square matrix. */
  function addSquare(sum, x) {
    for (let i = 0, k = 0; i < x.length; i++) {
      const value = x[i];
      if (value === 0) k += x.length;
      else for (let j = 0; j < x.length; j++) sum[k++] += value * x[j];
    }
  }

  return { makeWorld, fireSchedule };
})();
