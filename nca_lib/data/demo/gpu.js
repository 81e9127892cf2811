/* The life on a graphics card: what nca_lib/model.py says, in WGSL, for many grids at once.

   Each grid has weights and luck of its own; a population is many small grids, a world is one large
   one. It runs in pages and in workers, under any name of nca_lib/lab/config.py that it needs:

     const card = await Card.open();    an Error says in words why there is none
     card.isSoftware                    whether it is a program, slower than our own
     card.close()
     const life = card.makeLife({grids, height, width, channels, hidden, step_size,
                                 alive_threshold, steps, target});
                                        room for as many grids, and for luck of as many steps;
                                        target: premultiplied RGBA [H][W][4], only for losses
     Card.most({height, width, channels, hidden, steps})
                                        grids that there can be in a life
     life.plant(row, column, count)     empty the first `count` grids but for a seed in each
     life.setCells(cells)               Float32Array [B][H][W][C], as in nca.js; B <= grids
     life.setWeights(b, weights)        of grid b, in the order of nca.js
     life.setFires(f, fires)            schedule f < grids: for each step an array with a number for
                                        each cell, not 0 where it fires; with or without a border
     life.setSchedule(b, f)             grid b fires by schedule f; by 0 where nothing is said
     life.run(steps, {count, window})   the first `steps` of the schedules, in the first `count`
                                        grids (all); goes on from what is there. Over the last
                                        `window` steps (0) the loss is measured.
     await life.readLosses(count)       Float32Array [B], mean squared error of RGBA, averaged over
                                        the window; Infinity where that is not finite
     await life.readCells(count)        Float32Array [B][H][W][C]
     life.free()

   A card may be lost at any time; from then on null is read. A step is two passes: `think` writes
   what each cell would become, `settle` keeps what lives. Sums are of float32, where rollout.js sums
   float64: lives agree to rounding, and a cell close to the threshold may live here and die there.
   Nothing is written to the console; where it has no card, Chromium itself does so. */
var Card = (() => {
  "use strict";

  const GROUP = 64; // cells that a workgroup computes
  const PIECE = 2 ** 26; // bytes of a buffer, at most: phones have little room
  const MOST = 65535; // grids: so many groups a dispatch may have
  const NEEDED = {
    maxStorageBuffersPerShaderStage: 5,
    maxComputeInvocationsPerWorkgroup: GROUP,
    maxComputeWorkgroupSizeX: GROUP,
    maxComputeWorkgroupsPerDimension: MOST,
    maxStorageBufferBindingSize: PIECE,
    maxBufferSize: PIECE,
  };

  /* Numbers lie in fours. The channels of a cell are filled up in front, to whole fours, so that
     its last four are red, green, blue and alpha. */
  const shader = ({ grids, height, width, steps, step_size, alive_threshold }, sizes) => `
    const QUADS = ${sizes.quads}; // of channels
    const UNITS = ${sizes.units}; // fours of hidden units
    const BIAS = UNITS * QUADS * 12; // where the biases of the first layer begin,
    const SECOND = BIAS + UNITS; // the second layer, and its biases
    const LAST = SECOND + UNITS * QUADS * 4;
    const WEIGHTS = LAST + QUADS;
    const GRIDS = ${grids}u;
    const HEIGHT = ${height};
    const WIDTH = ${width};
    const AREA = ${height * width}u;
    const WORDS = ${sizes.words}u; // 32 cells each
    const STEPS = ${steps}u;
    const STEP_SIZE = f32(${step_size});
    const LIMIT = f32(${alive_threshold});

    @group(0) @binding(0) var<uniform> clock: vec4u; // step, whether to measure, window
    @group(0) @binding(1) var<storage, read_write> cells: array<vec4f>; // [B][H][W][quads]
    @group(0) @binding(2) var<storage, read_write> next: array<vec4f>; // [B][H][W][quads]
    @group(0) @binding(3) var<storage, read_write> alive: array<u32>; // [B][H][W], before a step
    @group(0) @binding(4) var<storage, read> weights: array<vec4f>; // [B][WEIGHTS]
    @group(0) @binding(5) var<storage, read> fires: array<u32>; // which schedule [B], then all of
                                                                // them: [schedules][steps][words]
    @group(0) @binding(6) var<storage, read> goal: array<vec4f>; // [H][W]
    @group(0) @binding(7) var<storage, read_write> errors: array<f32>; // [B][H][W], of the window
    @group(0) @binding(8) var<storage, read_write> losses: array<f32>; // [B]

    /* What four weights for each of four numbers make of these. */
    fn mix4(w: i32, x: vec4f) -> vec4f {
      return mat4x4f(weights[w], weights[w + 1], weights[w + 2], weights[w + 3]) * x;
    }

    @compute @workgroup_size(${GROUP})
    fn think(@builtin(global_invocation_id) id: vec3u) {
      if (id.x >= AREA) { return; }
      let at = vec2i(i32(id.x) / WIDTH, i32(id.x) % WIDTH); // row and column
      let start = i32(id.y * AREA);
      let here = (start + i32(id.x)) * QUADS;
      var lives = 0u; // whether a cell next to it is mature,
      var concerned = false; // or next to one that is
      for (var y = max(at.x - 2, 0); y <= min(at.x + 2, HEIGHT - 1); y++) {
        for (var x = max(at.y - 2, 0); x <= min(at.y + 2, WIDTH - 1); x++) {
          if (!(cells[(start + y * WIDTH + x + 1) * QUADS - 1].w > LIMIT)) { continue; }
          concerned = true;
          if (abs(y - at.x) < 2 && abs(x - at.y) < 2) { lives = 1u; }
        }
      }
      alive[id.y * AREA + id.x] = lives;
      let coins = fires[GRIDS + (fires[id.y] * STEPS + clock.x) * WORDS + id.x / 32u];
      if (!concerned || ((coins >> (id.x % 32u)) & 1u) == 0u) {
        for (var c = 0; c < QUADS; c++) { next[here + c] = cells[here + c]; }
        return;
      }
      var seen: array<vec4f, ${3 * sizes.quads}>; // itself, d/dy and d/dx
      for (var c = 0; c < QUADS; c++) { seen[c] = cells[here + c]; }
      for (var y = max(at.x - 1, 0); y <= min(at.x + 1, HEIGHT - 1); y++) {
        for (var x = max(at.y - 1, 0); x <= min(at.y + 1, WIDTH - 1); x++) {
          let dy = f32((y - at.x) * (2 - abs(x - at.y))) / 8;
          let dx = f32((x - at.y) * (2 - abs(y - at.x))) / 8;
          for (var c = 0; c < QUADS; c++) {
            let value = cells[(start + y * WIDTH + x) * QUADS + c];
            seen[QUADS + c] += dy * value;
            seen[2 * QUADS + c] += dx * value;
          }
        }
      }
      let w = i32(id.y) * WEIGHTS;
      var change: array<vec4f, ${sizes.quads}>;
      for (var c = 0; c < QUADS; c++) { change[c] = weights[w + LAST + c]; }
      for (var j = 0; j < UNITS; j++) {
        var sum = weights[w + BIAS + j];
        for (var i = 0; i < 3 * QUADS; i++) { sum += mix4(w + 4 * (j * 3 * QUADS + i), seen[i]); }
        sum = max(sum, vec4f());
        for (var c = 0; c < QUADS; c++) {
          change[c] += mix4(w + SECOND + 4 * (j * QUADS + c), sum);
        }
      }
      for (var c = 0; c < QUADS; c++) { next[here + c] = cells[here + c] + STEP_SIZE * change[c]; }
    }

    @compute @workgroup_size(${GROUP})
    fn settle(@builtin(global_invocation_id) id: vec3u) {
      if (id.x >= AREA) { return; }
      let at = vec2i(i32(id.x) / WIDTH, i32(id.x) % WIDTH);
      let start = i32(id.y * AREA);
      let here = (start + i32(id.x)) * QUADS;
      var stays = false;
      if (alive[id.y * AREA + id.x] == 1u) {
        for (var y = max(at.x - 1, 0); y <= min(at.x + 1, HEIGHT - 1); y++) {
          for (var x = max(at.y - 1, 0); x <= min(at.y + 1, WIDTH - 1); x++) {
            if (next[(start + y * WIDTH + x + 1) * QUADS - 1].w > LIMIT) { stays = true; }
          }
        }
      }
      for (var c = 0; c < QUADS; c++) { cells[here + c] = select(vec4f(), next[here + c], stays); }
      if (clock.y == 0) { return; }
      let off = cells[here + QUADS - 1] - goal[id.x];
      errors[id.y * AREA + id.x] += dot(off, off);
    }

    @compute @workgroup_size(${GROUP})
    fn add(@builtin(global_invocation_id) id: vec3u) {
      if (id.x >= GRIDS) { return; }
      var sum = 0f;
      for (var k = 0u; k < AREA; k++) { sum += errors[id.x * AREA + k]; }
      losses[id.x] = sum / f32(4 * AREA * clock.z);
    }
  `;
  const PASSES = { think: [0, 1, 2, 3, 4, 5], settle: [0, 1, 2, 3, 6, 7], add: [0, 7, 8] };

  /* How many numbers a life has of what, the buffers' sizes in the order of the shader. */
  function layOut({ grids, height, width, channels, hidden, steps }) {
    const area = height * width;
    const quads = Math.ceil(channels / 4);
    const units = Math.ceil(hidden / 4);
    const words = Math.ceil(area / 32);
    const share = 4 * (16 * quads * units + units + quads); // weights of a grid
    const cells = 4 * grids * area * quads;
    const fires = grids * (1 + steps * words);
    const sizes = [4, cells, cells, grids * area, grids * share, fires, 4 * area, grids * area, grids];
    return { area, quads, units, words, share, sizes };
  }

  function most(settings) {
    const largest = 4 * Math.max(...layOut({ ...settings, grids: 1 }).sizes);
    return Math.min(MOST, Math.floor(PIECE / largest));
  }

  /* Where each weight stands among those of a grid. A layer is made of matrices of four inputs, one
     after the other, and four outputs, in the order in which `think` needs them; then its biases. */
  function placeWeights({ channels, hidden }, { quads, units }) {
    const front = 4 * quads - channels;
    const ofChannel = (c) => 4 * quads * Math.floor(c / channels) + front + (c % channels);
    const bias = 48 * quads * units;
    const second = bias + 4 * units;
    const last = second + 16 * quads * units;
    const places = [];
    for (let i = 0; i < 3 * channels; i++) {
      for (let j = 0; j < hidden; j++) {
        places.push(((j >> 2) * 12 * quads + ofChannel(i)) * 4 + (j & 3));
      }
    }
    for (let j = 0; j < hidden; j++) places.push(bias + j);
    for (let i = 0; i < hidden; i++) {
      for (let c = 0; c < channels; c++) {
        const j = ofChannel(c);
        places.push(second + (((i >> 2) * quads + (j >> 2)) * 4 + (i & 3)) * 4 + (j & 3));
      }
    }
    for (let c = 0; c < channels; c++) places.push(last + ofChannel(c));
    return places;
  }

  async function open() {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) throw new Error("this browser offers no graphics card");
    for (const [limit, least] of Object.entries(NEEDED)) {
      const has = adapter.limits[limit];
      if (!(has >= least)) throw new Error(`the graphics card has ${limit} ${has}, not ${least}`);
    }
    const device = await adapter.requestDevice();
    let isLost = false;
    device.lost.then(() => (isLost = true));
    // Whatever else goes wrong is a loss, too; unheard it would be written to the console.
    device.onuncapturederror = (event) => {
      event.preventDefault();
      device.destroy();
    };
    const isSoftware = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
    const makeLife = (settings) => prepareLife(device, () => isLost, settings);
    return { isSoftware, makeLife, close: () => device.destroy() };
  }

  function prepareLife(device, isLost, settings) {
    const { grids, height, width, channels, target } = settings;
    const layout = layOut(settings);
    const { area, quads, words, share, sizes } = layout;
    const limit = most(settings);
    if (grids > limit) throw new Error(`grids must be at most ${limit}, not ${grids}`);
    const { COPY_DST, COPY_SRC, STORAGE: store, UNIFORM, MAP_READ } = GPUBufferUsage;
    const buffers = sizes.map((size, k) =>
      device.createBuffer({ size: 4 * size, usage: COPY_DST | COPY_SRC | (k ? store : UNIFORM) }),
    );
    const places = placeWeights(settings, layout);
    const [clock, cells, , , weights, fires, goal, errors, losses] = buffers;
    const module = device.createShaderModule({ code: shader(settings, layout) });
    const passes = Object.entries(PASSES).map(([entryPoint, bindings]) => {
      const pipeline = device.createComputePipeline({
        layout: "auto",
        compute: { module, entryPoint },
      });
      const entries = bindings.map((binding) => ({
        binding,
        resource: { buffer: buffers[binding] },
      }));
      return [pipeline, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries })];
    });
    const [think, settle, add] = passes;
    const write = (buffer, at, numbers) => device.queue.writeBuffer(buffer, 4 * at, numbers);
    if (target) write(goal, 0, target);

    /* Give commands, and have them carried out after all that was given before. */
    function command(give) {
      const encoder = device.createCommandEncoder();
      give(encoder);
      device.queue.submit([encoder.finish()]);
    }

    function dispatch(encoder, [pipeline, group], x, y) {
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.ceil(x / GROUP), y);
      pass.end();
    }

    function plant(row, column, number = grids) {
      command((encoder) => encoder.clearBuffer(cells, 0, 16 * number * area * quads));
      const seed = 4 * (row * width + column + 1) * quads - 1;
      const one = Float32Array.of(1);
      for (let b = 0; b < number; b++) write(cells, 4 * b * area * quads + seed, one);
    }

    function setCells(numbers) {
      const filled = new Float32Array((4 * quads * numbers.length) / channels);
      const front = 4 * quads - channels;
      for (let k = 0, n = 0; n < numbers.length; k += front) {
        for (let c = 0; c < channels; c++) filled[front + k++] = numbers[n++];
      }
      write(cells, 0, filled);
    }

    async function readCells(number = grids) {
      const filled = await read(cells, 4 * number * area * quads);
      const front = 4 * quads - channels;
      return filled?.filter((_, k) => k % (4 * quads) >= front) ?? null;
    }

    function setWeights(b, numbers) {
      const packed = new Float32Array(share);
      for (let n = 0; n < numbers.length; n++) packed[places[n]] = numbers[n];
      write(weights, b * share, packed);
    }

    function setFires(f, masks) {
      const packed = new Uint32Array(masks.length * words);
      masks.forEach((fire, t) => {
        const border = fire.length > area ? 1 : 0;
        const stride = width + 2 * border;
        for (let row = 0, k = 0; row < height; row++) {
          let from = (row + border) * stride + border;
          for (let column = 0; column < width; column++, k++, from++) {
            if (fire[from]) packed[t * words + (k >> 5)] |= 1 << (k & 31);
          }
        }
      });
      write(fires, grids + f * settings.steps * words, packed);
    }

    function run(number, { count: many = grids, window = 0 } = {}) {
      if (window) command((encoder) => encoder.clearBuffer(errors));
      for (let t = 0; t < number; t++) {
        const measures = t >= number - window ? 1 : 0;
        write(clock, 0, Uint32Array.of(t, measures, window, 0));
        command((encoder) => { // each by itself: pages are drawn in between
          dispatch(encoder, think, area, many);
          dispatch(encoder, settle, area, many);
        });
      }
      if (window) command((encoder) => dispatch(encoder, add, grids, 1));
    }

    /* The first numbers of a buffer; null where the card is lost. */
    async function read(buffer, number) {
      const size = 4 * number;
      const copy = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
      command((encoder) => encoder.copyBufferToBuffer(buffer, 0, copy, 0, size));
      try {
        await copy.mapAsync(GPUMapMode.READ);
      } catch {
        return null; // lost
      }
      const numbers = isLost() ? null : new Float32Array(copy.getMappedRange().slice(0));
      copy.destroy();
      return numbers;
    }

    async function readLosses(number = grids) {
      const found = await read(losses, number);
      return found?.map((loss) => (Number.isFinite(loss) ? loss : Infinity)) ?? null;
    }

    return {
      plant, setCells, setWeights, setFires, run, readLosses, readCells,
      setSchedule: (b, f) => write(fires, b, Uint32Array.of(f)),
      free: () => buffers.forEach((buffer) => buffer.destroy()),
    };
  }

  return { open, most };
})();
