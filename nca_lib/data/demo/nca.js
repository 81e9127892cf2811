/* The cell rule in JavaScript: what nca_lib/model.py says, under the same names.

   A state is {height, width, channels, cells}: the array (H, W, C) of the book laid out flat, so
   that channel c of the cell at (row, column) is cells[(row * width + column) * channels + c].
   Red, green, blue and alpha are the last four channels. Numbers are stored as float32 and summed
   as float64. One global, NCA; no dependency; any page or bare engine will do. */
var NCA = (() => {
  "use strict";

  const FORMATS = [1, 2]; // versions of the records; nca_lib/show/page.py writes them
  const BASE64 = /^([a-z\d+/]{4})*([a-z\d+/]{2}==|[a-z\d+/]{3}=)?$/i;
  const LIMITS = { channels: [4, 64], hidden: [1, 512], num_steps: [1, 1e6], age: [0, 1e6],
    pool: [0, 1e6] };
  const LONGEST = 1e6; // characters of a text; the weights of the largest rule have 702,144

  const SMOOTH = [1, 2, 1];
  const DIFF = [-1, 0, 1];

  /* Identity, d/dy and d/dx as 27 numbers, three for each of the nine neighbours. Turned by an
     angle (radians, clockwise on the screen), cells see along turned axes and grow a turned
     pattern: their world has no other north. */
  function makeKernels(angle = 0) {
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const kernels = [];
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) {
        const dy = (DIFF[i] * SMOOTH[j]) / 8;
        const dx = (SMOOTH[i] * DIFF[j]) / 8;
        kernels.push(i === 1 && j === 1 ? 1 : 0, cos * dy - sin * dx, cos * dx + sin * dy);
      }
    }
    return kernels;
  }

  const STRAIGHT = makeKernels();

  /* Let one cell see its neighbourhood: all channels through the first kernel, then through the
     second, ... (3C numbers into `perception`). Beyond the border everything is zero. */
  function perceive(state, index, kernels, perception) {
    const { height, width, channels, cells } = state;
    const row = Math.floor(index / width);
    const column = index % width;
    perception.fill(0);
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) {
        const y = row + i - 1;
        const x = column + j - 1;
        if (y < 0 || x < 0 || y >= height || x >= width) continue;
        const here = (y * width + x) * channels;
        const k = 3 * (3 * i + j);
        for (let c = 0; c < channels; c++) {
          const value = cells[here + c];
          perception[c] += kernels[k] * value;
          perception[channels + c] += kernels[k + 1] * value;
          perception[2 * channels + c] += kernels[k + 2] * value;
        }
      }
    }
  }

  /* What a cell adds to itself: two dense layers, perception (3C) -> hidden -> update (C). */
  function update(model, perception, hidden, change) {
    hidden.set(model.hiddenBias);
    for (let i = 0, w = 0; i < perception.length; i++) {
      const value = perception[i];
      for (let j = 0; j < hidden.length; j++) hidden[j] += value * model.hiddenKernel[w++];
    }
    change.set(model.outputBias);
    for (let j = 0; j < hidden.length; j++) {
      if (hidden[j] < 0) continue; // relu
      const w = j * change.length;
      for (let c = 0; c < change.length; c++) change[c] += hidden[j] * model.outputKernel[w + c];
    }
    for (let c = 0; c < change.length; c++) change[c] *= model.stepSize;
  }

  /* Mark every cell that is flagged or has a flagged neighbour. */
  function spread(flags, height, width) {
    const marked = new Uint8Array(flags.length);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (!flags[row * width + column]) continue;
        const left = Math.max(column - 1, 0);
        const right = Math.min(column + 2, width);
        for (let y = Math.max(row - 1, 0); y < Math.min(row + 2, height); y++) {
          marked.fill(1, y * width + left, y * width + right);
        }
      }
    }
    return marked;
  }

  /* The cells that are alive or have a living neighbour: alpha above the threshold. */
  function livingMask(state, threshold = 0.1) {
    const { height, width, channels } = state;
    const limit = Math.fround(threshold); // compared as float32, as in JAX
    const mature = Uint8Array.from(plane(state, channels - 1), (alpha) => alpha > limit);
    return spread(mature, height, width);
  }

  /* Advance the grid by one step, in place.

     `fire` has a number for each cell, other than 0 where it updates. What is not alive before the
     step is zero after it. Even so the cells next to the living are computed, too: their new alpha
     has a say in who is alive afterwards. What lies further out cannot matter and is left out. */
  function step(model, state, fire, kernels = STRAIGHT) {
    const { channels } = state;
    const alive = livingMask(state, model.aliveThreshold);
    const concerned = spread(alive, state.height, state.width);
    const perception = new Float64Array(3 * channels);
    const hidden = new Float64Array(model.hidden);
    const change = new Float64Array(channels);
    const next = state.cells.slice();
    for (let k = 0; k < alive.length; k++) {
      if (!fire[k] || !concerned[k]) continue;
      perceive(state, k, kernels, perception);
      update(model, perception, hidden, change);
      for (let c = 0; c < channels; c++) next[k * channels + c] += change[c];
    }
    state.cells = next;
    const after = livingMask(state, model.aliveThreshold); // alive before and after
    for (let k = 0; k < alive.length; k++) {
      if (!alive[k] || !after[k]) next.fill(0, k * channels, (k + 1) * channels);
    }
  }

  /* Let one cell of each pair fire, or each cell with the probability `rate`. */
  function fireMask(random, height, width, mask = "paired", rate = 0.5) {
    const fire = new Uint8Array(height * width);
    if (mask !== "paired") return fire.map(() => random() < rate);
    for (let k = 0; k < fire.length; k += 2) fire[k + (random() < 0.5 ? 0 : 1)] = 1;
    return fire;
  }

  /* Random numbers in [0, 1) that a seed decides (mulberry32, public domain). */
  function makeRandom(seed) {
    let a = seed | 0;
    return () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), a | 1);
      t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /* What everything grows from: a cell with alpha 1 in the middle, or several evenly spaced. */
  function seedState(height, width, channels, seeds = 1) {
    const state = { height, width, channels, cells: new Float32Array(height * width * channels) };
    const across = Math.ceil(Math.sqrt(seeds));
    const rows = Math.ceil(seeds / across);
    for (let k = 0; k < seeds; k++) {
      const row = ((Math.floor(k / across) + 0.5) * height) / rows;
      plantSeed(state, Math.floor(row), Math.floor((((k % across) + 0.5) * width) / across));
    }
    return state;
  }

  function plantSeed(state, row, column) {
    const end = (row * state.width + column + 1) * state.channels;
    state.cells.fill(0, end - state.channels, end);
    state.cells[end - 1] = 1;
  }

  /* Zero the cells whose middles lie within `radius` of a point; (0, 0) is the upper left corner
     of the grid, as in nca_lib/rollout.py. */
  function eraseDisc(state, row, column, radius) {
    const { height, width, channels, cells } = state;
    for (let k = 0; k < height * width; k++) {
      const dy = Math.floor(k / width) + 0.5 - row;
      const dx = (k % width) + 0.5 - column;
      if (dy * dy + dx * dx <= radius ** 2) cells.fill(0, k * channels, (k + 1) * channels);
    }
  }

  /* One channel of the whole grid, (H * W) float32. */
  function plane(state, channel) {
    const values = new Float32Array(state.height * state.width);
    for (let k = 0; k < values.length; k++) values[k] = state.cells[k * state.channels + channel];
    return values;
  }

  function check(fine, what) {
    if (!fine) throw new Error(`These weights cannot be used: ${what}.`);
  }

  /* Half precision, for engines without Float16Array: sign, 5 bits of exponent, 10 of fraction. */
  function readHalf(bits) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return NaN; // infinity or NaN, both refused below
    const value = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return bits >> 15 ? -value : value;
  }

  /* CRC-32 finds a file cut short or changed by accident. Who changes it on purpose can change any
     hash and any script, too. */
  function checksum(bytes) {
    let crc = -1;
    for (const byte of bytes) {
      crc ^= byte;
      for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc >>> 0;
  }

  /* Turn a record into a model; an Error says what is wrong. */
  function decode(given) {
    check(FORMATS.includes(given?.format), `this page reads formats ${FORMATS.join(" and ")}`);
    // What it has itself, not what it inherits; older files tell of no pool.
    const record = { pool: 0, ...given };
    check(record.rule === "growing" && record.border === "zero", "another cell rule");
    check(record.channel_order === "hidden, red, green, blue, alpha", "another order of channels");
    for (const [name, [low, high]] of Object.entries(LIMITS)) {
      const [value, range] = [record[name], `a whole number from ${low} to ${high}`];
      check(Number.isInteger(value) && value >= low && value <= high, `${name} must be ${range}`);
    }
    const isText = (value) => typeof value === "string" && value.length <= LONGEST;
    check(isText(record.emoji) && isText(record.title), "no title");
    const { channels, hidden, step_size: stepSize, alive_threshold: aliveThreshold } = record;
    check(Number.isFinite(stepSize) && stepSize > 0 && stepSize < 1e6, "no usable step size");
    const isShare = Number.isFinite(aliveThreshold) && aliveThreshold >= 0 && aliveThreshold < 1;
    check(isShare, "no usable threshold");
    check(["paired", "bernoulli"].includes(record.mask), "unknown fire mask");
    check(["float32", "float16"].includes(record.dtype), "neither float32 nor float16");
    const sizes = [3 * channels * hidden, hidden, hidden * channels, channels];
    const count = sizes.reduce((sum, size) => sum + size);
    const width = record.dtype === "float32" ? 4 : 2;
    check(isText(record.weights) && BASE64.test(record.weights), "they are not base64");
    const bytes = Uint8Array.from(atob(record.weights), (char) => char.charCodeAt(0));
    check(bytes.length === count * width, `${bytes.length} bytes instead of ${count * width}`);
    check(checksum(bytes) === record.crc32, "they are damaged, their checksum does not match");
    const view = new DataView(bytes.buffer);
    const single = (_, i) => view.getFloat32(4 * i, true);
    const half = (_, i) => readHalf(view.getUint16(2 * i, true));
    const numbers = Float32Array.from({ length: count }, width === 4 ? single : half);
    check(numbers.every(Number.isFinite), "a weight is not a finite number");
    let end = 0;
    const parts = sizes.map((size) => numbers.subarray(end, (end += size)));
    const [hiddenKernel, hiddenBias, outputKernel, outputBias] = parts;
    const layers = { hiddenKernel, hiddenBias, outputKernel, outputBias };
    return { ...record, stepSize, aliveThreshold, weights: numbers, ...layers };
  }

  /* Weight files are scripts, since a page opened from disk may not fetch: each calls register. */
  const records = new Map();
  const register = (record) => records.set(record?.name, record);

  return {
    makeKernels, perceive, update, livingMask, step, fireMask, makeRandom, seedState,
    plantSeed, eraseDisc, plane, checksum, decode, register, records,
  };
})();
