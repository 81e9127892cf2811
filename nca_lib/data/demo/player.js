/* A live pattern around nca.js: one small player, which pages and notebooks configure.

   NCA.player(container, record, options) puts a player into an element and returns it. A record is
   what nca_lib/show/page.py writes; a list of them stands side by side, with the same wounds and
   the same luck. One that cannot be used is an Error, and the element stays as it was. Options:
     grid, seeds, speed, rate, angle, brush, view, tool   see LIMITS, VIEWS and TOOLS; what is left
                  out suits the pattern: the world of its training, four seconds to grow
     room         the world is at least so many times as wide as the pattern
     tools        which buttons: some of "play step restart cut"
     again        whether a pattern that does not last starts over instead of standing still
   The player has play(isPlaying), restart(), cut(), apply(settings), say(message), and
   show([NCA.decode(record)]) for another pattern in its place.

   A placeholder <div class="nca-player" data-run="lizard" data-tools="play restart"> becomes a
   player by itself, with options from data attributes. What it holds before is what readers see who
   have no scripts, or where the weights do not come. */
(() => {
  "use strict";

  const here = document.currentScript?.src; // the folder of the weights lies beside this script
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // What a placeholder, a control or a link may set: lowest and highest value, and the step.
  const LIMITS = {
    speed: [0.5, 1000, 0.5], // steps per second; at 1000 as fast as it goes
    grid: [16, 128, 8], // cells on a side of the world
    seeds: [1, 9, 1],
    rate: [0.05, 1, 0.05], // how likely a cell is to fire
    angle: [0, 359, 1], // degrees, clockwise
    brush: [1, 16, 1], // radius of the eraser, in cells
  };
  const HIDDEN = Array.from({ length: 60 }, (_, i) => `hidden ${i}`);
  const VIEWS = ["colour", "alpha", "living mask", ...HIDDEN];
  const TOOLS = {
    erase: "Drag to erase",
    cut: "Drag across to cut",
    plant: "Click to plant a seed",
    turn: "Drag to turn",
  };
  const GROWTH = 3.2; // seconds
  const HELD = 4; // seconds that a pattern stands still before it starts over
  const TOLD = 80; // characters of a title that are shown

  /* An element; texts among the children become text nodes, never markup. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const button = (text, click, more = {}) =>
    make("button", { type: "button", click, ...more }, text);

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  /* A number brought within its limits; an angle goes round. NaN stays. */
  function bound(name, value) {
    const [low, high, step] = LIMITS[name];
    if (name === "angle") return ((Math.round(value) % 360) + 360) % 360;
    return Number((Math.round(clamp(value, low, high) / step) * step).toFixed(2));
  }

  /* Settings from a link or from data attributes: nothing but numbers within their limits, views
     and tools. */
  function readSettings(parameters) {
    const settings = {};
    for (const name of Object.keys(LIMITS)) {
      const value = bound(name, Number.parseFloat(parameters.get(name)));
      if (!Number.isNaN(value)) settings[name] = value;
    }
    const [view, tool] = [parameters.get("view"), parameters.get("tool")];
    if (VIEWS.includes(view)) settings.view = view;
    if (Object.hasOwn(TOOLS, tool)) settings.tool = tool;
    return settings;
  }

  /* What suits a pattern where nothing else is asked for. */
  function suit({ size, padding, num_steps: steps, window = 8 }, room) {
    const cells = (value) => (Number.isInteger(value) ? value : 0);
    const side = Math.max(room * cells(size), cells(size) + 2 * cells(padding));
    const own = {
      grid: bound("grid", Math.ceil(side / 8) * 8),
      speed: bound("speed", (steps - window + 8) / GROWTH), // it may be judged for long afterwards
    };
    return { ...own, seeds: 1, rate: 0.5, angle: 0, brush: 3, view: "colour", tool: "erase" };
  }

  /* Get the weights of a run by a script, since pages from disk may not fetch. */
  async function load(name) {
    if (!NCA.records.has(name)) {
      await new Promise((resolve, reject) => {
        const source = new URL(`weights/${name}.js`, here).href;
        const failed = () => reject(new Error(`The weights of ${name} could not be loaded.`));
        document.head.append(make("script", { src: source, load: resolve, error: failed }));
      });
    }
    const model = NCA.decode(NCA.records.get(name));
    if (model.name !== name) throw new Error(`The weights of ${name} are those of another run.`);
    return model;
  }

  const toByte = (value) => Math.round(255 * clamp(value || 0, 0, 1)); // NaN is 0

  /* Each view makes of a cell the pixel [red, green, blue, opacity] in 0 to 255. The cell's numbers
     end before cells[end]. Colours are those of nca_lib/lab/images.py. */
  function colourPixel({ cells }, end, { premultiply }) {
    const alpha = clamp(cells[end - 1] || 0, 0, 1);
    const limit = premultiply ? alpha : 1;
    const straight = (c) => toByte(Math.min(cells[c], limit) / (limit || 1));
    return [straight(end - 4), straight(end - 3), straight(end - 2), toByte(alpha)];
  }

  function hiddenPixel(value) {
    const strength = Math.min(1, Math.abs(value || 0)); // purple above 0, orange below
    const full = value > 0 ? [84, 39, 136] : [179, 88, 6];
    return full.map((tone) => 255 - strength * (255 - tone)).concat(255);
  }

  function maskPixel({ cells }, end, { aliveThreshold }, isAlive) {
    return cells[end - 1] > aliveThreshold ? [0, 114, 178, 255] : [158, 202, 225, 255 * isAlive];
  }

  function paint({ model, state, context, image }, view) {
    const { channels, cells } = state;
    const alive = NCA.livingMask(state, model.aliveThreshold);
    const shown = view === "alpha" ? channels - 1 : HIDDEN.indexOf(view);
    for (let k = 0; k < alive.length; k++) {
      const end = (k + 1) * channels;
      let pixel;
      if (view === "colour") pixel = colourPixel(state, end, model);
      else if (view === "living mask") pixel = maskPixel(state, end, model, alive[k]);
      else pixel = hiddenPixel(cells[end - channels + shown]);
      image.data.set(pixel, 4 * k);
    }
    context.putImageData(image, 0, 0);
  }

  /* On which side of a line a cell's middle lies: above 0 to the right of one who walks along it.
     The line goes through a point, in sides of the grid, at an angle in degrees; 0 leads east. */
  function side({ height, width }, k, { row, column }, angle) {
    const [dx, dy] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
    const y = Math.floor(k / width) + 0.5 - row * height;
    return dx * y - dy * ((k % width) + 0.5 - column * width);
  }

  /* The cells of a square grid turned about its middle, clockwise, each a copy of the nearest. */
  function turned({ height, width, channels }, cells, angle) {
    const [dx, dy] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
    const result = new Float32Array(cells.length);
    for (let k = 0; k < height * width; k++) {
      const [y, x] = [Math.floor(k / width) + 0.5 - height / 2, (k % width) + 0.5 - width / 2];
      const row = Math.floor(y * dx - x * dy + height / 2);
      const column = Math.floor(x * dx + y * dy + width / 2);
      if (row < 0 || column < 0 || row >= height || column >= width) continue;
      const from = (row * width + column) * channels;
      result.set(cells.subarray(from, from + channels), k * channels);
    }
    return result;
  }

  const angleOf = (from, to) =>
    (Math.atan2(to.row - from.row, to.column - from.column) * 180) / Math.PI;
  const MIDDLE = { row: 0.5, column: 0.5 };

  class Player {
    constructor(root, options) {
      this.root = root;
      this.options = { tools: "play restart cut", room: 0, again: false, ...options };
      this.settings = readSettings(new Map(Object.entries(this.options))); // as they were chosen
      this.panes = []; // one for each pattern that is shown
      this.isPlaying = !calm.matches;
      this.rests = calm.matches ? "calm" : ""; // why it stands still, if not by the reader's wish
      this.isVisible = false;
      this.resets = this.cuts = this.count = this.due = this.frame = 0;
      this.cursor = { ...MIDDLE }; // of pointer and keyboard, in sides of the grid
      this.build();
    }

    build() {
      this.playButton = button("", () => this.play(!this.isPlaying));
      const buttons = {
        play: this.playButton,
        step: button("Step", () => this.stepOnce()),
        restart: button("Start over", () => this.restart("From one cell again.")),
        cut: button("Cut in half", () => this.cut()),
      };
      const shown = Object.keys(buttons).filter((name) => this.options.tools.includes(name));
      this.figures = make("div", { class: "nca-figures" }, ...this.root.querySelectorAll("img"));
      this.hint = make("p", { class: "nca-hint", "aria-hidden": "true" });
      this.counter = make("p", { class: "nca-counter" });
      this.status = make("p", { class: "nca-status", role: "status" });
      const picture = make("div", { class: "nca-stage" }, this.figures, this.hint);
      const said = make("div", { class: "nca-said" }, this.status, this.counter);
      const row = make("div", { class: "nca-row" }, ...shown.map((name) => buttons[name]));
      this.main = make("div", { class: "nca-main" }, picture, said, row);
      this.root.replaceChildren(this.main);
      this.root.dataset.alive = "";
      new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1).isIntersecting;
        this.schedule();
      }).observe(this.main);
      document.addEventListener("visibilitychange", () => this.schedule());
      calm.addEventListener("change", () => calm.matches && this.play(false));
    }

    /* Show other patterns, from a seed. */
    show(models, message = "") {
      this.panes = models.map((model) => this.makePane(model));
      if (models.length === 0) return this.refresh(message);
      this.figures.replaceChildren(...this.panes.map((pane) => pane.figure));
      this.lasts = models.every(({ age, pool }) => age > 0 || pool > 0);
      this.steps = models[0].num_steps;
      // Offered are the views that all on show have: colour, alpha, mask, hidden channels.
      this.views = VIEWS.slice(0, Math.min(...models.map(({ channels }) => channels - 1)));
      this.restart(message);
      this.standStill();
    }

    makePane(model) {
      const title = model.title.length > TOLD ? `${model.title.slice(0, TOLD)}…` : model.title;
      const canvas = make("canvas", {
        tabindex: "0",
        role: "application",
        "aria-label": `${title}: cells. Arrow keys move a cursor, Enter uses the tool.`,
        keydown: (event) => this.handleKey(event),
        pointerdown: (event) => this.press(event),
        pointermove: (event) => this.drag(event),
        pointerup: (event) => this.release(event),
        pointercancel: () => this.letGo(), // the page scrolls instead
      });
      const cursor = make("span", { class: "nca-cursor" });
      const line = make("span", { class: "nca-line" });
      const frame = make("div", { class: "nca-frame" }, canvas, cursor, line);
      const figure = make("figure", {}, frame, make("figcaption", { class: "nca-caption" }, title));
      return { model, title, canvas, cursor, line, figure, context: canvas.getContext("2d") };
    }

    /* Take over settings; another size or number of seeds starts anew, another angle turns. */
    apply(settings) {
      const old = this.now;
      this.settings = settings;
      if (this.panes.length === 0) return;
      this.find();
      if (this.now.grid !== old.grid || this.now.seeds !== old.seeds) {
        this.restart("Begun anew.");
        return this.standStill();
      }
      this.turn(this.now.angle - old.angle, this.states());
      this.refresh();
    }

    /* What holds now: what was chosen, and for the rest what suits the pattern. */
    find() {
      this.now = { ...suit(this.panes[0].model, this.options.room), ...this.settings };
      if (!this.views.includes(this.now.view)) this.now.view = "colour";
    }

    restart(message) {
      if (this.panes.length === 0) return;
      if (this.rests === "end") [this.isPlaying, this.rests] = [true, ""];
      this.find();
      const { grid, seeds } = this.now;
      for (const pane of this.panes) {
        pane.canvas.width = pane.canvas.height = grid;
        pane.image = pane.context.createImageData(grid, grid);
        pane.state = NCA.seedState(grid, grid, pane.model.channels, seeds);
      }
      this.random = NCA.makeRandom(++this.resets); // the same luck for all that stand side by side
      this.count = this.due = this.pace = this.sinceCount = this.held = 0;
      // Old age is rare in training, and there a pattern begins to lose its shape.
      const late = this.options.again ? Math.min(16 * this.steps, 1024) : Infinity;
      this.end = this.lasts ? late : this.steps;
      this.since = performance.now();
      this.refresh(message);
      this.schedule();
    }

    /* Who asks for little motion gets a grown picture, after no more than a page may take. */
    standStill() {
      if (this.isPlaying || !calm.matches) return;
      const [last, late] = [Math.min(this.steps, 128), performance.now() + 4000];
      while (this.count < last && performance.now() < late) this.advance();
      this.refresh();
    }

    /* One step of all panes. */
    advance() {
      const { grid, rate, angle } = this.now;
      const mask = rate === 0.5 ? this.panes[0].model.mask : "bernoulli";
      const fire = NCA.fireMask(this.random, grid, grid, mask, rate);
      const kernels = NCA.makeKernels((angle * Math.PI) / 180);
      for (const { model, state } of this.panes) NCA.step(model, state, fire, kernels);
      this.count++;
    }

    stepOnce() {
      if (this.panes.length === 0) return;
      this.play(false);
      this.advance();
      this.refresh(`Step ${this.count}.`);
    }

    play(isPlaying, message = isPlaying ? "Playing." : `Paused at step ${this.count}.`) {
      [this.isPlaying, this.rests] = [isPlaying, ""];
      if (isPlaying && this.count >= this.end) this.goOn();
      this.refresh(message);
      this.schedule();
    }

    /* Beyond the end; where patterns start over, a little longer. */
    goOn() {
      [this.end, this.held] = [this.options.again ? this.count + 96 : Infinity, 0];
    }

    /* At its end a pattern stands still; where it is to start over, it does so a moment later. */
    finish(seconds) {
      if (!this.options.again) {
        this.play(false, `Paused at step ${this.count}, where its training ended. Play or touch it.`);
        this.rests = "end";
        return;
      }
      if (this.held === 0 && !this.lasts) this.say("Not trained to last: it starts over soon.");
      this.held += seconds;
      if (this.lasts || this.held > HELD) this.restart("Started over, before it lost its shape.");
    }

    /* Run only while it can be seen. */
    schedule() {
      const isOn = this.isPlaying && this.isVisible && !document.hidden && this.panes.length > 0;
      if (!isOn || this.frame) return;
      this.last = this.since = performance.now();
      [this.pace, this.sinceCount] = [0, this.count];
      this.frame = requestAnimationFrame((now) => this.run(now));
    }

    run(now) {
      this.frame = 0;
      if (!this.isPlaying || !this.isVisible || document.hidden) return;
      const seconds = clamp(now - this.last, 0, 100) / 1000;
      this.due += this.now.speed < LIMITS.speed[1] ? seconds * this.now.speed : 1e6;
      this.last = now;
      const until = performance.now() + 14; // of the 16 ms of a frame
      const isTurning = this.pressed?.base;
      for (; this.due >= 1 && performance.now() < until && !isTurning; this.due--) {
        if (this.count >= this.end) break;
        this.advance();
      }
      this.due %= 1; // what this machine cannot keep up with is left out
      if (this.count >= this.end) this.finish(seconds);
      if (now - this.since >= 500) {
        this.pace = Math.round((1000 * (this.count - this.sinceCount)) / (now - this.since));
        [this.since, this.sinceCount] = [now, this.count];
      }
      this.draw();
      this.frame ||= requestAnimationFrame((later) => this.run(later));
    }

    draw() {
      for (const pane of this.panes) paint(pane, this.now.view);
      const pace = this.isPlaying && this.pace ? ` · ${this.pace} steps/s` : "";
      this.counter.textContent = this.panes.length ? `Step ${this.count}${pace}` : "";
      this.options.drawn?.();
    }

    say(message) {
      this.status.textContent = message;
    }

    /* Bring everything on the page in line with the settings. */
    refresh(message) {
      if (message !== undefined) this.say(message);
      this.playButton.textContent = this.isPlaying ? "Pause" : "Play";
      if (this.panes.length === 0) return;
      this.hint.textContent = this.wasUsed === this.now.tool ? "" : TOOLS[this.now.tool];
      this.point();
      this.draw();
      this.options.changed?.();
    }

    /* Show where the tool would act: a ring of the eraser's size, or the line of a cut. */
    point() {
      const { grid, brush, tool } = this.now;
      const from = this.pressed?.from ?? MIDDLE;
      const diameter = tool === "erase" ? (200 * brush) / grid : 200 / grid;
      for (const { cursor, line } of this.panes) {
        cursor.style.inset = `${100 * this.cursor.row}% auto auto ${100 * this.cursor.column}%`;
        cursor.style.width = `${diameter}%`;
        line.hidden = tool !== "cut";
        line.style.inset = `${100 * from.row}% auto auto ${100 * from.column}%`;
        line.style.rotate = `${angleOf(from, this.cursor)}deg`;
      }
    }

    /* A frozen picture wakes when it is touched; one that the reader paused stays so. */
    touched(message) {
      this.wasUsed = this.now.tool;
      // What heals gets the time to.
      if (this.count + (this.lasts ? 96 : 0) >= this.end) this.goOn();
      if (this.rests) return this.play(true, `${message} It lives on.`);
      this.refresh(message);
    }

    /* Where on the grid an event happened, in sides of the grid. */
    locate({ target, clientX, clientY }) {
      const { left, top, width, height } = target.getBoundingClientRect();
      return { row: (clientY - top) / height, column: (clientX - left) / width };
    }

    states() {
      return this.panes.map(({ state }) => state.cells);
    }

    /* Erase or plant at a place. */
    use({ row, column }) {
      const { grid, brush, tool } = this.now;
      const cell = (value) => clamp(Math.floor(value * grid), 0, grid - 1);
      for (const { state } of this.panes) {
        if (tool === "plant") NCA.plantSeed(state, cell(row), cell(column));
        else NCA.eraseDisc(state, row * grid, column * grid, brush);
      }
      this.touched(tool === "plant" ? "Planted a seed." : "Erased.");
    }

    /* Cut off one side of a line, by default the one on which less is alive. */
    cutAlong(place, angle, which) {
      const { state } = this.panes[0];
      const alpha = NCA.plane(state, state.channels - 1);
      const balance = alpha.reduce(
        (sum, x, k) => sum + x * Math.sign(side(state, k, place, angle)),
        0,
      );
      const sign = which ?? (balance > 0 ? -1 : 1);
      for (const pane of this.panes) {
        const { cells, channels } = pane.state;
        const isOff = (_, k) => sign * side(state, k, place, angle) > 0;
        const off = alpha.map(isOff);
        pane.state.cells = cells.map((x, i) => (off[Math.floor(i / channels)] ? 0 : x));
      }
      this.touched("Cut off.");
    }

    /* Half of the world, each time at another angle. */
    cut() {
      if (this.panes.length > 0) this.cutAlong(MIDDLE, 135 + 137.5 * this.cuts++, 1);
    }

    /* Turn patterns, whose cells are given, and the axes of their cells. */
    turn(degrees, cells) {
      if (degrees === 0) return;
      this.panes.forEach(({ state }, i) => (state.cells = turned(state, cells[i], degrees)));
    }

    turnBy(degrees, { angle, cells } = { angle: this.now.angle, cells: this.states() }) {
      this.settings.angle = this.now.angle = bound("angle", angle + degrees);
      this.turn(degrees, cells);
      this.touched(`Turned by ${this.now.angle}°.`);
    }

    /* A finger may mean to scroll: it acts once it has moved sideways, or let go where it was. */
    press(event) {
      if (event.button !== 0) return;
      const from = this.locate(event);
      this.pressed = { from, last: from, x: event.clientX, y: event.clientY };
      this.cursor = from;
      if (event.pointerType === "touch") return this.point();
      event.target.setPointerCapture(event.pointerId);
      this.begin();
    }

    begin() {
      this.pressed.isOurs = true;
      const { tool, angle } = this.now;
      if (tool === "turn") this.pressed.base = { angle, cells: this.states() };
      else if (tool !== "cut") this.use(this.pressed.from);
    }

    drag(event) {
      const { pressed } = this;
      const to = this.locate(event);
      if (pressed && !pressed.isOurs) {
        const across = Math.abs(event.clientX - pressed.x);
        pressed.isTap = Math.hypot(across, event.clientY - pressed.y) < 10;
        if (pressed.isTap || across <= Math.abs(event.clientY - pressed.y)) return;
        this.begin();
      }
      this.cursor = to;
      this.point();
      if (pressed?.base) {
        const degrees = angleOf(MIDDLE, to) - angleOf(MIDDLE, pressed.from);
        this.turnBy(Math.round(degrees), pressed.base);
      } else if (pressed && this.now.tool === "erase") this.eraseAlong(pressed.last, to);
      if (pressed) pressed.last = to;
    }

    /* Without gaps, however fast the pointer moves. */
    eraseAlong(from, to) {
      const distance = Math.hypot(to.row - from.row, to.column - from.column);
      const parts = Math.ceil((2 * distance * this.now.grid) / this.now.brush);
      for (let i = 1; i <= parts; i++) {
        const along = (name) => from[name] + ((to[name] - from[name]) * i) / parts;
        this.use({ row: along("row"), column: along("column") });
      }
    }

    release() {
      const { pressed } = this;
      if (!pressed) return;
      if (!pressed.isOurs && pressed.isTap !== false) this.begin();
      const { from, last } = pressed;
      const isLine = Math.hypot(last.row - from.row, last.column - from.column) > 0.02;
      this.letGo();
      if (this.now.tool === "cut" && isLine) this.cutAlong(from, angleOf(from, last));
    }

    letGo() {
      this.pressed = null;
      this.point();
    }

    handleKey(event) {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const isUse = event.key === "Enter" || event.key === " ";
      if ((!isUse && !moves[event.key]) || event.altKey || event.ctrlKey || event.metaKey) return;
      const [down, right] = moves[event.key] ?? [0, 0];
      const { tool } = this.now;
      event.preventDefault();
      if (tool === "turn") return this.turnBy(isUse ? 15 : 5 * (down + right));
      this.cursor = {
        row: clamp(this.cursor.row + down / 24, 0, 1),
        column: clamp(this.cursor.column + right / 24, 0, 1),
      };
      this.point();
      if (isUse && tool === "cut") this.cutAlong(MIDDLE, angleOf(MIDDLE, this.cursor));
      else if (isUse) this.use(this.cursor);
    }
  }

  NCA.player = (container, record, options = {}) => {
    const models = [record].flat().map(NCA.decode);
    const player = new Player(container, options);
    player.show(models);
    return player;
  };

  /* What can be chosen: the catalogue of the book, or what the page itself has brought. */
  NCA.choices = () => {
    const own = ([name, { title }]) => ({ label: title, runs: [name] });
    return NCA.catalogue ?? [...NCA.records].map(own);
  };

  /* The placeholders that are not alive yet and whose run is one of the choices. */
  NCA.placeholders = (selector) => {
    const known = new Set(NCA.choices().map(({ runs }) => runs.join(" ")));
    const all = document.querySelectorAll(`.nca-player${selector}:not([data-alive])`);
    return [...all].filter(({ dataset }) => known.has(dataset.run));
  };

  async function revive(root) {
    const { again, room, ...options } = root.dataset;
    Object.assign(options, { again: again !== undefined, room: Number.parseFloat(room) || 0 });
    try {
      const models = await Promise.all(root.dataset.run.split(" ").map(load));
      NCA.player(root, [], options).show(models);
    } catch (error) {
      const line = root.querySelector("p") ?? root.appendChild(make("p"));
      line.textContent = `${error.message} This is a picture of what they grow.`;
    }
  }

  Object.assign(NCA, { load, make, button, paint, readSettings, LIMITS, VIEWS, TOOLS, here });
  for (const root of NCA.placeholders(":not([data-controls])")) {
    root.dataset.alive = "";
    revive(root);
  }
})();
