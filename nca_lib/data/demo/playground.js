/* The interface around nca.js. A placeholder <div class="nca-player" data-run="lizard"> becomes a
   live pattern; with data-controls="all" it gets every control, with data-link it follows the
   address of the page. What the placeholder held before is what readers without scripts see. */
(() => {
  "use strict";

  const here = document.currentScript?.src; // the folder of the weights lies beside this script
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // The sliders, which are also all that a placeholder or a link may set, and within which limits.
  const SLIDERS = {
    speed: { label: "Speed", min: 1, max: 240, step: 1, text: (v) => `${v} steps/s` },
    grid: { label: "Grid", min: 16, max: 128, step: 8, text: (v) => `${v} × ${v}` },
    seeds: { label: "Seeds", min: 1, max: 9, step: 1, text: (v) => `${v}` },
    rate: { label: "Fire rate", min: 0.05, max: 1, step: 0.05, text: (v) => v.toFixed(2) },
    angle: { label: "Turned by", min: 0, max: 345, step: 15, text: (v) => `${v}°` },
  };
  const DEFAULTS = { speed: 30, grid: 32, seeds: 1, rate: 0.5, angle: 0, view: "colour" };
  const HIDDEN = Array.from({ length: 60 }, (_, i) => `hidden ${i}`);
  const VIEWS = ["colour", "alpha", "living mask", ...HIDDEN];
  const RADIUS = 1 / 10; // of the eraser, in sides of the grid
  const CLIP_SECONDS = 4;
  const HORIZON = "Paused at the last step that training looked at. Play goes on, at its own risk.";

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

  /* What can be chosen: the catalogue of the book, or what the page itself has brought. */
  function choices() {
    const own = ([name, { emoji, title }]) => ({ label: `${emoji} ${title}`, runs: [name] });
    return NCA.catalogue ?? [...NCA.records].map(own);
  }

  /* Read settings from a link or a placeholder. Nothing is taken that is not a choice, a view or a
     number, and numbers are brought within their limits. */
  function readSettings(parameters, base) {
    const settings = { ...base };
    for (const [name, { min, max, step }] of Object.entries(SLIDERS)) {
      const value = Number.parseFloat(parameters.get(name));
      const nearest = Math.min(max, Math.max(min, Math.round(value / step) * step));
      if (!Number.isNaN(nearest)) settings[name] = Number(nearest.toFixed(2));
    }
    if (VIEWS.includes(parameters.get("view"))) settings.view = parameters.get("view");
    const wanted = parameters.get("run");
    if (choices().some(({ runs }) => runs.join(" ") === wanted)) settings.run = wanted;
    return settings;
  }

  /* Get the weights of one of the choices, by a script, since pages from disk may not fetch. */
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

  const toByte = (value) => Math.round(255 * Math.min(1, Math.max(0, value || 0))); // NaN is 0

  /* Each view makes of a cell the pixel [red, green, blue, opacity] in 0 to 255. The cell's numbers
     end before cells[end]. Colours are those of nca_lib/lab/images.py. */
  function colourPixel({ cells }, end, { premultiply }) {
    const alpha = Math.min(1, Math.max(0, cells[end - 1] || 0));
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

  class Player {
    constructor(root) {
      this.root = root;
      this.panes = []; // one for each run that is shown
      this.isFull = root.dataset.controls === "all";
      this.base = readSettings(new URLSearchParams(Object.entries(root.dataset)), DEFAULTS);
      this.settings = this.readLink() ?? { ...this.base };
      this.isPlaying = !calm.matches;
      this.isVisible = this.isHeld = false;
      this.resets = this.turn = this.count = this.due = this.frame = 0;
      this.cursor = { row: 0.5, column: 0.5 }; // of the keyboard, in sides of the grid
      window.addEventListener("hashchange", () => this.apply(this.readLink()));
      this.choose(this.settings.run);
    }

    readLink() {
      const parameters = new URLSearchParams(location.hash.slice(1));
      if (!("link" in this.root.dataset) || !parameters.has("run")) return null;
      return readSettings(parameters, this.base);
    }

    /* Show other runs; if that is not possible, say why and leave everything as it is. */
    async choose(run) {
      const turn = ++this.turn;
      this.settings.run = run;
      const models = await Promise.all(run.split(" ").map(load)).catch((error) => error.message);
      if (turn !== this.turn) return; // something else has been chosen since
      const isFirst = !this.form;
      if (typeof models === "string") {
        this.settings.run = this.shown;
        return isFirst ? this.root.append(make("p", {}, models)) : this.refresh(models);
      }
      if (isFirst) this.build();
      this.shown = run;
      this.panes = models.map((model) => this.makePane(model));
      this.figures.replaceChildren(...this.panes.map((pane) => pane.figure));
      // What was never asked to last gets a pause there.
      this.horizon = models.every(({ age }) => age === 0) ? models[0].num_steps : -1;
      // Offered are the views that all runs on show have: colour, alpha, mask, hidden channels.
      this.views = VIEWS.slice(0, Math.min(...models.map(({ channels }) => channels - 1)));
      this.view?.replaceChildren(...this.views.map((view) => make("option", {}, view)));
      this.reset(isFirst ? "" : `${models.map((model) => model.title).join(", ")}.`);
      if (isFirst && calm.matches) {
        // A picture, standing still, after no more than a page may do before it answers.
        const [last, end] = [Math.min(models[0].num_steps, 128), performance.now() + 4000];
        while (this.count < last && performance.now() < end) this.advance();
        this.refresh();
      }
    }

    build() {
      const button = (text, click) => make("button", { type: "button", click }, text);
      this.playButton = button("", () => this.play(!this.isPlaying));
      this.clipButton = button("Save clip", () => this.saveClip());
      this.figures = make("div", { class: "nca-figures" });
      this.counter = make("p", { class: "nca-counter" });
      this.status = make("p", { class: "nca-status", role: "status" });
      this.inputs = {};
      const step = this.isFull ? [button("Step", () => this.stepOnce())] : [];
      const reset = button("Reset", () => this.reset("Back to the seed."));
      const cut = button("Cut in half", () => this.cut());
      const row = [this.playButton, ...step, reset, cut, this.counter];
      this.form = make("form", { submit: (event) => event.preventDefault() }, this.figures);
      this.form.append(make("div", { class: "nca-row" }, ...row));
      if (this.isFull) this.form.append(...this.makeControls(button));
      this.form.append(this.status);
      this.root.replaceChildren(this.form);
      new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1).isIntersecting;
        this.schedule();
      }).observe(this.root);
      document.addEventListener("visibilitychange", () => this.schedule());
      calm.addEventListener("change", () => calm.matches && this.play(false));
    }

    makeControls(button) {
      const radios = (legend, name, items, change) => {
        const labels = items.map(([value, text], i) => {
          const input = make("input", { type: "radio", name, value, change: () => change(value) });
          input.checked = i === 0;
          return make("label", {}, input, ` ${text}`);
        });
        return make("fieldset", {}, make("legend", {}, legend), ...labels);
      };
      const runs = choices().map((choice) => [choice.runs.join(" "), choice.label]);
      const tools = [["erase", "erases"], ["plant", "plants a seed"]];
      const sliders = Object.entries(SLIDERS).map(([name, { label, min, max, step }]) => {
        const input = ({ target }) => this.apply({ ...this.settings, [name]: +target.value });
        this.inputs[name] = make("input", { type: "range", min, max, step, input });
        const text = make("span", { class: "nca-value", "aria-hidden": "true" });
        return make("label", {}, label, this.inputs[name], text);
      });
      const look = ({ target }) => this.apply({ ...this.settings, view: target.value });
      this.view = make("select", { change: look });
      this.link = make("a", {}, "Link to this setting");
      const saving = [button("Save image", () => this.saveImage())];
      if (window.MediaRecorder) saving.push(this.clipButton);
      return [
        ...(runs.length > 1 ? [radios("Pattern", "run", runs, (run) => this.choose(run))] : []),
        radios("A click or drag", "tool", tools, () => {}),
        make("div", { class: "nca-sliders" }, ...sliders, make("label", {}, "View", this.view)),
        make("div", { class: "nca-row" }, ...saving, this.link),
      ];
    }

    makePane(model) {
      const canvas = make("canvas", {
        tabindex: "0",
        role: "application",
        "aria-label": `${model.title}: cells. Arrow keys move a cursor, Enter uses the tool.`,
        keydown: (event) => this.handleKey(event),
        pointerdown: (event) => this.press(event),
        pointermove: (event) => this.drag(event),
        pointerup: (event) => this.release(event),
        pointercancel: () => (this.pressed = null), // the page scrolls instead
        dblclick: (event) => this.use(this.locate(event), "plant"),
      });
      const cursor = make("span", { class: "nca-cursor" });
      const caption = make("figcaption", { class: "nca-caption" }, `${model.emoji} ${model.title}`);
      const frame = make("div", { class: "nca-frame" }, canvas, cursor);
      const figure = make("figure", {}, frame, caption);
      return { model, canvas, cursor, figure, context: canvas.getContext("2d") };
    }

    /* Take over settings, from a control or a link; only a change of size starts anew. */
    apply(settings) {
      if (!settings) return;
      const old = this.settings;
      this.settings = settings;
      const isSame = settings.grid === old.grid && settings.seeds === old.seeds;
      if (this.form && isSame) this.refresh();
      else if (this.form) this.reset("Begun anew.");
      if (settings.run !== old.run) this.choose(settings.run);
    }

    reset(message) {
      this.isPlaying ||= this.isHeld; // a pause that the reader never asked for ends here
      const { grid, seeds } = this.settings;
      for (const pane of this.panes) {
        pane.canvas.width = pane.canvas.height = grid;
        pane.image = pane.context.createImageData(grid, grid);
        pane.state = NCA.seedState(grid, grid, pane.model.channels, seeds);
      }
      this.random = NCA.makeRandom(++this.resets); // the same luck for all that stand side by side
      this.count = this.due = this.pace = this.sinceCount = 0;
      this.since = performance.now();
      this.refresh(message);
      this.schedule();
    }

    /* One step of all panes. */
    advance() {
      const { grid, rate, angle } = this.settings;
      const mask = rate === 0.5 ? this.panes[0].model.mask : "bernoulli";
      const fire = NCA.fireMask(this.random, grid, grid, mask, rate);
      const kernels = NCA.makeKernels((angle * Math.PI) / 180);
      for (const { model, state } of this.panes) NCA.step(model, state, fire, kernels);
      this.count++;
    }

    stepOnce() {
      this.play(false);
      this.advance();
      this.refresh(`Step ${this.count}.`);
    }

    play(isPlaying, message = isPlaying ? "Playing." : `Paused at step ${this.count}.`) {
      this.isPlaying = isPlaying;
      this.isHeld = message === HORIZON;
      this.refresh(message);
      this.schedule();
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
      this.due += (Math.min(Math.max(now - this.last, 0), 100) / 1000) * this.settings.speed;
      this.last = now;
      const end = performance.now() + 14; // of the 16 ms of a frame
      for (; this.due >= 1 && performance.now() < end; this.due--) {
        this.advance();
        if (this.count === this.horizon) return this.play(false, HORIZON);
      }
      this.due %= 1; // what this machine cannot keep up with is left out
      if (now - this.since >= 500) {
        this.pace = Math.round((1000 * (this.count - this.sinceCount)) / (now - this.since));
        [this.since, this.sinceCount] = [now, this.count];
      }
      this.draw();
      this.frame = requestAnimationFrame((later) => this.run(later));
    }

    draw() {
      for (const pane of this.panes) paint(pane, this.settings.view);
      if (this.clip) this.compose(this.clip.canvas);
      const pace = this.isPlaying && this.pace ? ` · ${this.pace} steps/s` : "";
      this.counter.textContent = `Step ${this.count}${pace}`;
    }

    /* Bring everything on the page in line with the settings. */
    refresh(message) {
      if (message !== undefined) this.status.textContent = message;
      if (!this.views.includes(this.settings.view)) this.settings.view = "colour";
      this.playButton.textContent = this.isPlaying ? "Pause" : "Play";
      const inset = `${100 * this.cursor.row}% auto auto ${100 * this.cursor.column}%`;
      for (const { cursor } of this.panes) cursor.style.inset = inset;
      if (this.isFull) {
        for (const [name, input] of Object.entries(this.inputs)) {
          input.value = this.settings[name];
          const text = SLIDERS[name].text(this.settings[name]);
          input.setAttribute("aria-valuetext", text);
          input.nextSibling.textContent = text;
        }
        this.view.value = this.settings.view;
        if (choices().length > 1) this.form.elements.run.value = this.settings.run;
        this.link.href = `#${new URLSearchParams(this.settings)}`;
      }
      this.draw();
    }

    /* Where on the grid an event happened, in sides of the grid. */
    locate(event) {
      const { left, top, width, height } = event.target.getBoundingClientRect();
      return { row: (event.clientY - top) / height, column: (event.clientX - left) / width };
    }

    use({ row, column }, tool = this.form.elements.tool?.value ?? "erase") {
      const { grid } = this.settings;
      const cell = (value) => Math.min(grid - 1, Math.max(0, Math.floor(value * grid)));
      for (const { state } of this.panes) {
        if (tool === "plant") NCA.plantSeed(state, cell(row), cell(column));
        else NCA.eraseDisc(state, row * grid, column * grid, RADIUS * grid);
      }
      this.refresh(tool === "plant" ? "Planted a seed." : "Erased.");
    }

    /* A finger may mean to scroll: it acts once the browser has left the movement to us. */
    press(event) {
      if (event.button !== 0) return;
      this.pressed = this.locate(event);
      if (event.pointerType === "touch") return;
      event.target.setPointerCapture(event.pointerId);
      this.use(this.pressed);
      this.pressed.isUsed = true;
    }

    drag(event) {
      if (!this.pressed || this.form.elements.tool?.value === "plant") return;
      const [from, to] = [this.pressed, this.locate(event)];
      const distance = Math.hypot(to.row - from.row, to.column - from.column);
      const parts = Math.ceil((2 * distance) / RADIUS);
      for (let i = 0; i <= parts; i++) {
        const along = (name) => from[name] + ((to[name] - from[name]) * i) / (parts || 1);
        this.use({ row: along("row"), column: along("column") });
      }
      this.pressed = { ...to, isUsed: true };
    }

    release() {
      if (this.pressed && !this.pressed.isUsed) this.use(this.pressed);
      this.pressed = null;
    }

    handleKey(event) {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const isUse = event.key === "Enter" || event.key === " ";
      if ((!isUse && !moves[event.key]) || event.altKey || event.ctrlKey || event.metaKey) return;
      const [down, right] = moves[event.key] ?? [0, 0];
      event.preventDefault();
      this.cursor.row = Math.min(1, Math.max(0, this.cursor.row + down / 24));
      this.cursor.column = Math.min(1, Math.max(0, this.cursor.column + right / 24));
      if (isUse) this.use(this.cursor);
      else this.refresh();
    }

    cut() {
      for (const { state } of this.panes) {
        const column = (i) => Math.floor(i / state.channels) % state.width;
        state.cells = state.cells.map((x, i) => (column(i) < state.width / 2 ? 0 : x));
      }
      this.refresh("Erased the left half.");
    }

    /* All panes side by side on white, enlarged, into a canvas. */
    compose(canvas) {
      const side = this.settings.grid * Math.ceil(480 / this.settings.grid);
      const context = canvas.getContext("2d");
      [canvas.width, canvas.height] = [side * this.panes.length, side];
      context.fillStyle = "white";
      context.fillRect(0, 0, canvas.width, side);
      context.imageSmoothingEnabled = false;
      this.panes.forEach((pane, i) => context.drawImage(pane.canvas, i * side, 0, side, side));
      return canvas;
    }

    save(blob, ending) {
      const href = URL.createObjectURL(blob);
      make("a", { href, download: `${this.shown.replaceAll(" ", "-")}.${ending}` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 10_000);
    }

    saveImage() {
      this.compose(make("canvas")).toBlob((blob) => this.save(blob, "png"));
      this.refresh("Saved an image.");
    }

    saveClip() {
      // A double click does not end what it has begun, for that would save an empty file.
      if (this.clip) return performance.now() > this.clip.start + 500 && this.clip.stop();
      const canvas = this.compose(make("canvas"));
      const recorder = new MediaRecorder(canvas.captureStream(30));
      recorder.ondataavailable = ({ data }) => {
        this.save(data, recorder.mimeType.includes("mp4") ? "mp4" : "webm");
        this.clip = null;
        this.clipButton.textContent = "Save clip";
        this.refresh("Saved a clip.");
      };
      const stop = () => recorder.state === "recording" && recorder.stop();
      this.clip = { canvas, stop, start: performance.now() };
      this.clipButton.textContent = "Stop the clip";
      recorder.start();
      setTimeout(stop, 1000 * CLIP_SECONDS);
      this.play(true);
      this.refresh(`Recording ${CLIP_SECONDS} seconds.`);
    }
  }

  /* Bring to life what is there and not alive yet, if its run is one of the choices. */
  const known = new Set(choices().map(({ runs }) => runs.join(" ")));
  for (const root of document.querySelectorAll(".nca-player:not([data-alive])")) {
    if (!known.has(root.dataset.run)) continue;
    root.dataset.alive = "";
    new Player(root);
  }
})();
