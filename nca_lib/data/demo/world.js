/* A world: many plants on one ground, each with a rule of its own.

   A plant is a life of rollout.js on its plot, as large as the grid of its training, laid upon the
   ground around its seed. A cell of the ground belongs to the plant that reaches it first. For
   every other it is empty and does not fire. One global, World; world_page.js has the page. */
var World = (() => {
  "use strict";

  const APART = 31; // cells between seeds that are sown, at least,
  const EDGE = 14; // and between them and the border
  const STILL = 250; // steps that a grown plant stands still, about,
  const FADE = 12; // that it takes to go,
  const PAUSE = 40; // and that its ground lies bare, at most
  const WAKE = 10; // steps that it lives on when it is wounded, once, and then stands still
  const OLD = 1024; // steps; older than this even those trained to last lose their shape
  const MOST = 200; // plants
  const SPLASH = 8; // steps for which a drop is seen
  const WATER = [64, 145, 215];

  /* A bare ground of height x width cells. What happens by chance, `seed` decides. */
  function makeWorld(height, width, seed = 1) {
    const random = NCA.makeRandom(~seed);
    const luck = NCA.makeRandom(seed); // of cells, apart from all else that happens
    const bits = () => luck() * 2 ** 32;
    const world = { height, width, plants: [], steps: 0 };
    let owner = new Int32Array(height * width); // ids of plants, 0 where nothing lives
    let drops = [];
    let ids = 0;
    let turn = 0; // how many plants have done the step that is under way

    const isGround = (y, x) => y >= 0 && x >= 0 && y < world.height && x < world.width;

    /* Where on the ground the cells of a plant's plot lie, -1 outside of it. */
    function survey({ life: { side }, row, column }) {
      const [top, left] = [row - (side >> 1), column - (side >> 1)];
      return Int32Array.from({ length: side * side }, (_, i) => {
        const [y, x] = [top + Math.floor(i / side), left + (i % side)];
        return isGround(y, x) ? y * world.width + x : -1;
      });
    }

    /* Call visit(k, distance) for each cell of the ground whose middle is as close as `radius`. */
    function visitDisc(row, column, radius, visit) {
      for (let y = Math.floor(row - radius); y <= row + radius; y++) {
        for (let x = Math.floor(column - radius); x <= column + radius; x++) {
          const distance = Math.hypot(y + 0.5 - row, x + 0.5 - column);
          if (distance <= radius && isGround(y, x)) visit(y * world.width + x, distance);
        }
      }
    }

    /* Tell the ground which cells a plant has; how many there are. */
    function claim({ id, age, plot, inner, model: { channels }, life: { cells } }) {
      let count = 0;
      for (let i = 0; i < plot.length; i++) {
        const k = plot[i];
        if (k < 0) continue;
        if (age >= 0 && cells[(inner[i] + 1) * channels - 1] !== 0) {
          owner[k] = id;
          count++;
        } else if (owner[k] === id) owner[k] = 0;
      }
      return count;
    }

    /* Put a seed into the ground; it sprouts so many steps from now. */
    function plant(model, row, column, wait = 0) {
      const life = Rollout.makeWorld(model, new Float32Array());
      life.setWeights(model.weights);
      const { side, stride } = life;
      const pad = (_, i) => (Math.floor(i / side) + 1) * stride + (i % side) + 1;
      const inner = Int32Array.from({ length: side * side }, pad); // the plot in its padded grid
      const lasts = model.age > 0 || model.pool > 0;
      const end = lasts ? Math.min(16 * model.num_steps, OLD) : model.num_steps;
      const one = { id: ++ids, model, life, row, column, inner, end, age: -wait };
      one.plot = survey(one);
      world.plants.push(one);
      if (wait === 0) sprout(one);
      return one;
    }

    function sprout(one) {
      if (owner[one.row * world.width + one.column] !== 0) return startOver(one); // no room yet
      [one.age, one.still, one.hasWoken] = [0, STILL * (0.6 + 0.8 * random()), false];
      one.life.plant();
      claim(one);
    }

    /* From the seed again, in a while. */
    function startOver(one) {
      one.age = -1 - Math.floor(PAUSE * random());
      claim(one);
    }

    /* One step of one plant: it waits, grows, stands still, or goes. */
    function grow(one) {
      const { id, plot, inner } = one;
      one.age++;
      if (one.age === 0) return sprout(one);
      if (one.age > one.end + one.still + FADE) return startOver(one);
      if (one.age < 0 || one.age > one.end) return;
      const [fires] = Rollout.fireSchedule(bits, { ...one.model, num_steps: 1 });
      for (let i = 0; i < plot.length; i++) {
        const k = plot[i];
        if (k < 0 || (owner[k] !== 0 && owner[k] !== id)) fires[inner[i]] = 0;
      }
      one.life.step(fires);
      if (claim(one) === 0) startOver(one);
    }

    /* A step of all plants, or the part of it that is done by `late`; whether it is complete. */
    function step(late = Infinity) {
      while (turn < world.plants.length) {
        if (performance.now() > late) return false;
        grow(world.plants[turn++]);
      }
      turn = 0;
      world.steps++;
      drops = drops.filter((drop) => --drop.left > 0);
      return true;
    }

    /* Erase a disc. A plant of which nothing is left starts over, or is weeded out. */
    function erase(row, column, radius, isWeeding = true) {
      const hit = new Set();
      visitDisc(row, column, radius, (k) => {
        if (owner[k] === 0) return;
        const one = world.plants.find(({ id }) => id === owner[k]);
        const { channels } = one.model;
        const cell = one.inner[one.plot.indexOf(k)];
        one.life.cells.fill(0, cell * channels, (cell + 1) * channels);
        hit.add(one);
      });
      for (const one of hit) {
        one.life.recount();
        const wakes = one.age > one.end && !one.hasWoken;
        if (wakes) [one.age, one.still, one.hasWoken] = [one.end - WAKE, WAKE, true];
        if (claim(one) > 0) continue;
        if (isWeeding) world.plants.splice(world.plants.indexOf(one), 1);
        else startOver(one);
      }
    }

    /* A drop falls somewhere, and wounds. */
    function rain() {
      const [row, column] = [random() * world.height, random() * world.width];
      const radius = 2 + 3 * random();
      drops.push({ row, column, radius, left: SPLASH });
      erase(row, column, radius, false);
    }

    /* Sow where there was no ground of `before` = [height, width] yet, until it is full: each seed
       far from its own kind, to sprout from the middle outwards. */
    function sow(models, before = [0, 0]) {
      const { height, width } = world;
      const sides = [height, width];
      for (let tries = (models.length * height * width) / 100; tries > 0; tries--) {
        const place = sides.map((side) => Math.floor(EDGE + (side - 2 * EDGE) * random()));
        const off = place.map((at, i) => Math.abs(at - sides[i] / 2));
        const gap = (one) => Math.hypot(one.row - place[0], one.column - place[1]);
        if (2 * off[0] < before[0] && 2 * off[1] < before[1]) continue;
        if (world.plants.length >= MOST || world.plants.some((one) => gap(one) < APART)) continue;
        const lonely = (model) => (0.7 + 0.6 * random()) *
          Math.min(1e3, ...world.plants.filter((one) => one.model === model).map(gap));
        const [[, model]] = models.map((one) => [lonely(one), one]).sort(([a], [b]) => b - a);
        plant(model, ...place, 1 + Math.floor(Math.hypot(...off) / 4 + 24 * random()));
      }
    }

    /* Another size, around the same middle. */
    function resize(high, wide) {
      const [down, right] = [high - world.height, wide - world.width].map((n) => Math.floor(n / 2));
      [world.height, world.width, turn, drops] = [high, wide, 0, []];
      owner = new Int32Array(high * wide);
      for (const one of world.plants) {
        one.row += down;
        one.column += right;
        one.plot = survey(one);
      }
      world.plants = world.plants.filter(({ row, column }) => isGround(row, column));
      world.plants.forEach(claim);
    }

    /* Paint straight RGBA, 4 * height * width bytes. */
    function draw(pixels) {
      pixels.fill(0);
      for (const { row, column, radius, left } of drops) {
        const wave = radius * (1.3 - left / SPLASH);
        visitDisc(row, column, wave, (k, distance) => {
          if (distance > wave - 1.3) pixels.set([...WATER, (255 * left) / SPLASH], 4 * k);
        });
      }
      for (const { id, age, end, still, plot, life } of world.plants) {
        if (age < 0) continue;
        const opacity = Math.min(1, (end + still + FADE - age) / FADE);
        const seen = life.draw();
        for (let i = 0; i < plot.length; i++) {
          const k = plot[i];
          if (k < 0 || owner[k] !== id) continue;
          for (let c = 0; c < 3; c++) pixels[4 * k + c] = seen[4 * i + c];
          pixels[4 * k + 3] = opacity * seen[4 * i + 3];
        }
      }
    }

    return Object.assign(world, { plant, sow, step, erase, rain, resize, draw });
  }

  return { makeWorld, MOST };
})();
