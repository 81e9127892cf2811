/* A crew that shares a population: many lives side by side, and a page that stays awake.

   It works as nca_lib/evolution.py does on several devices. Each hand computes the fitness of its
   share of the members, and only the fitness, one number a member, crosses between them. All else
   is computed by each of them alike, so that the history does not depend on how many there are.
   The hands are workers; where there are none, one hand works in the page's own thread, a few
   milliseconds at a time. Where there is a graphics card that comes to the same and is faster, the
   first of them has all members live there. The others learn along with it: whenever the card is
   lost they do the generation again. How a page uses it stands at the head of evolve.js. */
var Evolution = (() => {
  "use strict";

  const DEFAULTS = {
    emoji: "", title: "", size: 24, padding: 4, channels: 8, hidden: 32, step_size: 1,
    alive_threshold: 0.1, mask: "paired", num_steps: 32, window: 8, population: 64,
    strategy: "whitened", std: 0.035, std_rate: 0.3, learning_rate: 0.6, learning_rate_end: 1,
    generations: 1000, seed: 0, ranks: true, pairs: true, shared_luck: true,
  };
  const WHOLE = {
    size: [8, 64], padding: [0, 16], channels: [4, 32], hidden: [1, 128], num_steps: [1, 200],
    window: [1, 200], population: [4, 1024], generations: [1, 1e9], seed: [0, 2 ** 32 - 1],
  };
  const LIMITS = {
    ...WHOLE, step_size: [1e-3, 10], alive_threshold: [0, 0.999], std: [1e-9, 1e3],
    std_rate: [0, 1e3], learning_rate: [1e-9, 1e3], learning_rate_end: [0, 1e3],
  };
  const CHOICES = { mask: ["paired", "bernoulli"], strategy: ["whitened", "pgpe", "open_es"] };
  const LIVE = new Set([
    "emoji", "title", "mask", "num_steps", "window", "population", "std", "std_rate", "ranks",
    "learning_rate", "learning_rate_end", "generations", "pairs", "shared_luck",
  ]);
  const DEAD = { std: 0.5 }; // noise so large that within a few generations nobody lives,
  const EXPLODED = { std: 1 }; // or that most explode
  const PICTURES = 300; // milliseconds between two sets of pictures, at least
  const LIVES = 8; // over which the loss of the mean is averaged
  const SLICE = 8; // milliseconds that the page's own thread computes at a time
  const TRIALS = 2; // generations both ways: in the last of them all is compiled, and it is timed
  const [CLOSE, MOST] = [1e-4, 0.99]; // losses on the card that are so close, and how many must be

  /* Refuse what cannot run; gives the settings with the defaults of what they leave open. */
  function check(settings) {
    const full = { ...DEFAULTS, ...settings };
    const refuse = (name, wanted) => {
      throw new Error(`${name} must be ${wanted}, not ${String(full[name]).slice(0, 40)}.`);
    };
    for (const [name, standard] of Object.entries(DEFAULTS)) {
      const value = full[name];
      if (name in LIMITS) {
        const [low, high] = LIMITS[name];
        const [a, fits] = name in WHOLE ? ["a whole", Number.isInteger] : ["a", Number.isFinite];
        const isWithin = fits(value) && value >= low && value <= high;
        if (!isWithin) refuse(name, `${a} number from ${low} to ${high}`);
      } else if (name in CHOICES) {
        if (!CHOICES[name].includes(value)) refuse(name, CHOICES[name].join(" or "));
      } else if (typeof value !== typeof standard) refuse(name, `a ${typeof standard}`);
    }
    if (full.window > full.num_steps) refuse("window", `1 to ${full.num_steps}, the steps`);
    if (full.pairs && full.population % 2) refuse("population", "even, for pairs");
    if (full.mask === "paired" && full.size % 2) refuse("size", "even, for paired masks");
    return full;
  }

  /* What a grid scores that nothing has grown on. */
  const emptyLoss = (target) => target.reduce((sum, x) => sum + x * x, 0) / target.length;

  /* -- What each hand does: its share of every generation -------------------------------------- */

  class Share {
    constructor({ settings, target, weights, index, count }) {
      Object.assign(this, { settings, target, index, count });
      this.world = Rollout.makeWorld(settings, target);
      this.state = ES.init(settings, weights ?? undefined);
    }

    /* From the next generation on. A new sigma scales all that were learned. */
    *change(settings) {
      const factor = settings.std / this.settings.std;
      if (factor !== 1) this.state.std = this.state.std.map((std) => std * factor);
      this.settings = settings;
    }

    /* Who lives in this generation, one share of `count`: the members and, where it `measures`, the
       mean under numbers from `population` on. */
    *lives(index, count, measures) {
      const { settings, state } = this;
      const draws = ES.countDraws(settings);
      const shared = settings.shared_luck && ES.luck(settings, state, 0);
      for (let i = index; i < draws; i += count) {
        const shaken = ES.shake(settings, state, ES.noiseOf(settings, state, i));
        for (const [number, sign] of settings.pairs ? [[i, 1], [i + draws, -1]] : [[i, 1]]) {
          const fires = shared || ES.luck(settings, state, number);
          yield { number, fires, weights: ES.member(state, shaken, sign) };
        }
      }
      for (let k = index; measures && k < LIVES; k += count) {
        const fires = Rollout.fireSchedule(ES.makeBits(settings.seed, 0, ES.MEASURE, k), settings);
        yield { number: settings.population + k, fires, weights: Float32Array.from(state.mean) };
      }
    }

    /* Let this share live: [[number, fitness], ...], and the members' last pictures where these are
       asked for. `onCard`, the first hand has all shares live there: null where the card is lost. */
    *evaluate({ pictures, measures, onCard }) {
      const { settings, state, world, index, count } = this;
      const seen = (mean) => world.moments(mean, ES.luck(settings, state, 0));
      yield* ES.look(settings, state, seen);
      const [found, drawn] = [[], []];
      if (onCard && index) return { found, drawn };
      if (onCard) {
        try {
          return yield* this.evaluateOnCard([...this.lives(0, 1, measures)], pictures);
        } catch {
          return null; // whatever fails there
        }
      }
      for (const { number, fires, weights } of this.lives(index, count, measures)) {
        found.push([number, yield* world.live(weights, fires, settings.window)]);
        if (pictures && number < settings.population) drawn.push(world.draw());
      }
      return { found, drawn };
    }

    /* Open the graphics card: empty, or why there is none. One in software takes its place only if
       it must: it is slower by far, and to find that out takes long. */
    *open(gpu) {
      const use = (card) => {
        this.card = card;
        return card.isSoftware && gpu !== "on" ? "this browser has a graphics card in software" : "";
      };
      return yield Card.open().then(use).catch((error) => error.message);
    }

    /* A place for the lives on the card; another one where there are more of them, or longer ones. */
    makeRoom() {
      const { settings, target, world: { side } } = this;
      const told = { ...settings, height: side, width: side, steps: settings.num_steps, target };
      const grids = Math.min(Card.most(told), settings.population + LIVES);
      const key = `${grids} lives of ${told.steps} steps`;
      if (key !== this.room?.key) {
        this.room?.life.free();
        this.room = { key, grids, life: this.card.makeLife({ ...told, grids }) };
      }
      return this.room;
    }

    *evaluateOnCard(lives, pictures) {
      const { settings: { population, num_steps, window }, world } = this;
      const { grids, life } = this.makeRoom();
      const [found, drawn] = [[], []];
      for (let start = 0; start < lives.length; start += grids) {
        const batch = lives.slice(start, start + grids);
        const schedules = [...new Set(batch.map(({ fires }) => fires))];
        schedules.forEach((fires, f) => life.setFires(f, fires));
        batch.forEach(({ weights, fires }, b) => {
          life.setWeights(b, weights);
          life.setSchedule(b, schedules.indexOf(fires));
        });
        life.plant(world.side >> 1, world.side >> 1, batch.length);
        life.run(num_steps, { count: batch.length, window });
        const losses = yield life.readLosses(batch.length);
        if (!losses) return null;
        batch.forEach(({ number }, b) => found.push([number, losses[b]]));
        const members = batch.filter(({ number }) => number < population).length;
        if (!pictures || !members) continue;
        const cells = yield life.readCells(members);
        if (!cells) return null;
        const size = cells.length / members;
        for (let b = 0; b < members; b++) {
          world.setCells(cells.subarray(b * size, (b + 1) * size));
          drawn.push(world.draw());
        }
      }
      return { found, drawn };
    }

    /* Learn from the fitness of all; one hand tells what has become of the mean. */
    *tell({ fitness }) {
      const { settings, state } = this;
      yield* ES.tell(settings, state, fitness);
      if (this.index) return null;
      const std = ES.std(settings, state);
      const sigma = std.reduce((sum, s) => sum + s, 0) / std.length;
      return { mean: Float32Array.from(state.mean), sigma };
    }
  }

  /* What a hand is asked, and its answer; what takes long yields in between. */
  function makeClerk() {
    let share = null;
    return function* answer(task, told) {
      if (task !== "begin") return yield* share[task](told);
      share = new Share(told);
      return null;
    };
  }

  /* Go through without a break. */
  function finish(work) {
    let now = work.next();
    while (!now.done) now = work.next();
    return now.value;
  }

  /* What a worker runs: answers every message, in order. Promises that its work yields it awaits. */
  function serve(scope) {
    const answer = makeClerk();
    const reply = async ([task, told]) => {
      const work = answer(task, told);
      let now = work.next();
      while (!now.done) now = work.next(now.value && (await now.value));
      scope.postMessage(now.value);
    };
    scope.onmessage = ({ data }) => reply(data).catch(reportError); // which the page then hears
  }

  /* -- Hands: a worker, or the page's own thread ----------------------------------------------- */

  /* One question at a time. A worker that cannot start or that fails breaks its promises. */
  function hireWorker() {
    if (!Evolution.source) throw new Error("the build has put no source into the page");
    const url = URL.createObjectURL(new Blob([Evolution.source], { type: "text/javascript" }));
    const worker = new Worker(url);
    const ask = (task, told) =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new Error(event.message || "a worker did not start"));
        };
        worker.postMessage([task, told]);
      });
    const dismiss = () => {
      worker.terminate();
      URL.revokeObjectURL(url);
    };
    return { ask, dismiss };
  }

  function hireOwnThread() {
    const { port1, port2 } = new MessageChannel(); // a timer would wait, four milliseconds or more
    const breathe = () => {
      port2.postMessage(0);
      return new Promise((resolve) => (port1.onmessage = resolve));
    };
    const answer = makeClerk();
    const ask = async (task, told) => {
      const work = answer(task, told);
      for (;;) {
        await breathe();
        for (let start = performance.now(); performance.now() - start < SLICE; ) {
          const { done, value } = work.next();
          if (done) return value;
        }
      }
    };
    return { ask, dismiss: () => port1.close() };
  }

  const cores = () => Math.max(1, Math.min(8, (navigator.hardwareConcurrency || 2) - 1));

  /* -- What a page holds ----------------------------------------------------------------------- */

  class Search {
    constructor(settings, target, { workers = cores(), weights, gpu = "off", ...handlers } = {}) {
      this.settings = check(settings);
      const { size, padding, channels, hidden } = this.settings;
      const numbers = 4 * (size + 2 * padding) ** 2;
      if (target.length !== numbers || !target.every(Number.isFinite)) {
        throw new Error(`The target must have ${numbers} finite numbers.`);
      }
      const count = ES.countWeights({ channels, hidden });
      if (weights && (weights.length !== count || !weights.every(Number.isFinite))) {
        throw new Error(`There must be ${count} finite weights to start from.`);
      }
      Object.assign(this, { handlers, target: Float32Array.from(target), history: [] });
      Object.assign(this, { generation: 0, rollouts: 0, seconds: 0, loss: NaN, state: "idle" });
      this.empty = emptyLoss(this.target);
      if (!(this.empty > 0)) throw new Error("The target is empty: nothing has to grow.");
      this.mean = weights ? Float32Array.from(weights) : ES.initialWeights(this.settings);
      const card = gpu === "off" ? "off" : "trying";
      Object.assign(this, { gpu, card, cardTrouble: "", trials: 0 });
      Object.assign(this, { wanted: false, busy: null, pace: [], drawnAt: -Infinity, hands: [] });
      this.ready = this.hire(workers);
    }

    get workers() {
      return this.ownThread ? 0 : this.hands.length;
    }

    async hire(workers) {
      const told = { settings: this.settings, target: this.target, weights: this.mean };
      const begin = () =>
        this.hands.map((hand, index, { length: count }) =>
          hand.ask("begin", { ...told, index, count }),
        );
      try {
        if (!workers) throw new Error("none are wanted");
        for (let k = 0; k < workers; k++) this.hands.push(hireWorker());
        await Promise.all(begin());
      } catch {
        for (const hand of this.hands) hand.dismiss();
        if (this.stopped) return;
        this.ownThread = true;
        this.card = "off";
        this.hands = [hireOwnThread()];
        await Promise.all(begin());
      }
    }

    become(state) {
      if (this.state === state) return;
      this.state = state;
      this.handlers.onState?.(state);
    }

    /* Generations until it is paused, or until there is no point in more. */
    async run() {
      this.wanted = true;
      if (this.looping || this.stopped) return;
      this.looping = true;
      while (this.wanted && !this.stopped) await this.step(true).catch(() => this.pause());
      this.looping = false;
    }

    pause() {
      this.wanted = false;
      if (!this.busy && this.state === "running") this.become("paused");
    }

    stop() {
      this.stopped = true;
      this.pause();
      for (const hand of this.hands) hand.dismiss();
    }

    /* Whoever asks while a generation is under way gets that one's report. */
    step() {
      return (this.busy ??= this.generate().finally(() => (this.busy = null)));
    }

    change(changes) {
      for (const name of Object.keys(changes)) {
        if (!LIVE.has(name)) throw new Error(`${name} cannot change while evolution goes on.`);
      }
      this.settings = check({ ...this.settings, ...changes });
      this.changed = true;
      const isOther = "population" in changes || "num_steps" in changes;
      if (isOther && (this.card === "on" || this.card === "slower")) {
        this.card = "trying"; // who is faster depends on how many lives there are
        this.trials = 0;
      }
    }

    async generate() {
      try {
        this.become("running");
        await this.ready;
        const [report, condition] = await this.ask();
        if (condition) this.wanted = false;
        this.become(condition || (this.wanted ? "running" : "paused"));
        this.handlers.onGeneration?.(report);
        return report;
      } catch (error) {
        this.become("paused");
        if (!this.stopped) this.handlers.onError?.(error);
        throw error;
      }
    }

    all(task, told) {
      return Promise.all(this.hands.map((hand) => hand.ask(task, told)));
    }

    /* All shares of a generation, from the card where it is at work. */
    async evaluate(told) {
      if (this.card === "on") {
        const shares = await this.evaluateOnCard(told);
        if (shares) return shares;
      }
      const start = performance.now();
      const shares = await this.all("evaluate", told);
      if (this.card === "trying") await this.tryCard(told, shares, performance.now() - start);
      return shares;
    }

    async evaluateOnCard(told) {
      const shares = await this.all("evaluate", { ...told, onCard: true });
      if (shares[0]) return shares;
      this.card = "lost";
      return null;
    }

    /* The same generation on the card: does it come to the same, and in less than `time`? */
    async tryCard(told, shares, time) {
      this.opened ??= this.hands[0].ask("open", this.gpu);
      this.cardTrouble = await this.opened;
      if (this.cardTrouble) this.card = "none";
      if (this.cardTrouble) return;
      const start = performance.now();
      const others = await this.evaluateOnCard(told);
      const isFaster = performance.now() - start < time;
      if (!others) return;
      this.trials++;
      if (!agree(shares, others)) this.card = "differs";
      else if (this.trials === TRIALS) this.card = isFaster || this.gpu === "on" ? "on" : "slower";
    }

    /* One generation by all hands: its report, and whether it has died or exploded. */
    async ask() {
      const start = performance.now();
      const { settings, generation, changed } = this;
      this.changed = false;
      if (changed) await this.all("change", settings);
      const measures = generation < 10 || generation % 10 === 0;
      const pictures = start - this.drawnAt >= PICTURES;
      if (pictures) this.drawnAt = start;
      let shares = await this.evaluate({ measures, pictures });
      let [fitness, loss] = [new Float32Array(settings.population), 0];
      for (const [number, value] of shares.flatMap(({ found }) => found)) {
        if (number >= fitness.length) loss += value / LIVES;
        else fitness[number] = value;
      }
      const condition = judge(fitness, this.empty); // and what has ended is always drawn
      if (condition && !pictures) shares = await this.evaluate({ pictures: true });
      const withNumber = ({ found, drawn }) => drawn.map((picture, k) => [found[k][0], picture]);
      const drawn = new Map(shares.flatMap(withNumber));
      const [{ mean, sigma }] = await this.all("tell", { fitness });
      if (measures) {
        this.loss = loss; // of the mean before this generation
        this.history.push({ generation, rollouts: this.rollouts, seconds: this.seconds, loss, sigma });
      }
      const seconds = (performance.now() - start) / 1000;
      this.mean = mean;
      this.generation++;
      this.rollouts += fitness.length;
      this.seconds += seconds;
      this.pace = [...this.pace.slice(-19), [fitness.length, seconds]];
      const order = Array.from(fitness.keys()).sort((a, b) => fitness[a] - fitness[b] || a - b);
      const [best, median] = [fitness[order[0]], fitness[order[fitness.length >> 1]]];
      const report = { ...this.history.at(-1), generation: this.generation, fitness, best, median };
      Object.assign(report, { rollouts: this.rollouts, seconds: this.seconds, measured: measures });
      Object.assign(report, { sigma, mean, rate: this.rate() });
      report.pictures = drawn.size ? join(order.map((number) => drawn.get(number))) : null;
      return [report, condition];
    }

    rate() {
      const [lives, seconds] = [0, 1].map((k) => this.pace.reduce((sum, row) => sum + row[k], 0));
      return lives / seconds;
    }

    model() {
      return NCA.open(this.toRecord());
    }

    toRecord(told = {}) {
      const { settings, mean, target, rollouts, loss } = this;
      return NCA.encode({ ...settings, weights: mean, target, rollouts, loss }, told);
    }
  }

  /* Whether nearly all lives score the same, twice computed. */
  function agree(...twice) {
    const [ours, others] = twice.map((shares) => shares.flatMap(({ found }) => found));
    const scores = new Map(others);
    const isClose = ([number, loss]) => {
      const other = scores.get(number);
      return loss === other || Math.abs(loss - other) <= CLOSE * Math.max(1, Math.abs(loss));
    };
    return ours.filter(isClose).length >= MOST * ours.length;
  }

  function join(pictures) {
    const joined = new Uint8ClampedArray(pictures.length * pictures[0].length);
    pictures.forEach((picture, k) => joined.set(picture, k * picture.length));
    return joined;
  }

  /* Most are not finite, or most score what an empty grid does; then there is nothing to rank. */
  function judge(fitness, empty) {
    const most = (is) => fitness.filter(is).length > fitness.length / 2;
    if (most((f) => f === Infinity)) return "exploded";
    return most((f) => Math.abs(f - empty) <= 1e-5 * empty) ? "dead" : "";
  }

  const create = (...told) => new Search(...told);
  const limits = { DEFAULTS, LIMITS, LIVE, DEAD, EXPLODED, PICTURES };
  return { create, check, emptyLoss, serve, cores, finish, Share, ...limits };
})();
