/* A world in a page: <div class="nca-player nca-world" data-runs="lizard heart"> becomes one in
   which these runs can be planted. Of those that grow the same picture the first is sown. */
(() => {
  "use strict";

  const { make, button } = NCA;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const LEAST = 256; // cells on the shorter side
  const BUDGET = 10; // ms of a frame for steps
  const BRUSH = 5; // cells, radius of the eraser and of the hole for a seed
  const KEYS = { ArrowUp: [-6, 0], ArrowDown: [6, 0], ArrowLeft: [0, -6], ArrowRight: [0, 6] };
  const AHEAD = 110; // steps that are done unseen for those who ask for little motion
  const DRAG = 6; // pixels that a press moves before it erases
  const SLIDERS = { // name, label, [text, value], and which of them at first
    speed: ["Speed", [1, 2, 4, 8, 15, 30, 60].map((n) => [`${n} steps/s`, n]), 4],
    // Drops a step, on 256 x 256 cells.
    rain: ["Rain", [["none", 0], ["a drizzle", 0.05], ["a shower", 0.3], ["heavy", 1.5]], 1],
  };

  const clamp = (value, high) => Math.min(Math.max(value, 0), high);

  class Page {
    constructor(root, models) {
      this.root = root;
      [this.model] = models; // of which the reader plants
      this.sown = models.filter(({ emoji }, i) => models.findIndex((m) => m.emoji === emoji) === i);
      this.isPlaying = !calm.matches;
      this.frame = this.due = this.seed = 0;
      this.cursor = { row: LEAST / 2, column: LEAST / 2 };
      this.build(models);
      new ResizeObserver(() => this.fit()).observe(this.canvas);
      new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1).isIntersecting;
        this.schedule();
      }).observe(this.canvas);
      document.addEventListener("visibilitychange", () => this.schedule());
      calm.addEventListener("change", () => calm.matches && this.play(false));
    }

    build(models) {
      this.canvas = make("canvas", {
        tabindex: "0",
        role: "application",
        "aria-label": "World: arrow keys move a cursor, Enter plants a seed, Delete erases.",
        keydown: (event) => this.handleKey(event),
        pointerdown: (event) => this.press(event),
        pointermove: (event) => this.drag(event),
        pointerup: () => this.release(),
        pointercancel: () => (this.pressed = null), // the page scrolls instead
      });
      this.context = this.canvas.getContext("2d");
      this.ring = make("span", { class: "nca-cursor" });
      this.status = make("p", { class: "nca-status", role: "status" });
      this.counter = make("p", { class: "nca-counter" });
      this.playButton = button(this.isPlaying ? "Pause" : "Play", () => this.play(!this.isPlaying));
      this.fillButton = button("Fill the page", () => this.fill());
      const over = button("Start over", () => this.restart(this.sown, "Sown anew."));
      const bare = button("Bare ground", () => this.restart([], "Bare: plant what you like."));
      const row = make("div", { class: "nca-row" }, this.playButton, over, bare, this.fillButton);
      const sliders = Object.entries(SLIDERS).map(([name, told]) => this.makeSlider(name, ...told));
      const knobs = make("div", { class: "nca-sliders" }, ...sliders);
      const said = make("div", { class: "nca-said" }, this.status, this.counter);
      const seeds = models.map((model) => this.makeSeed(model));
      const legend = make("legend", {}, "Seeds");
      const tray = make("fieldset", { class: "nca-picture" }, legend, ...seeds);
      const submit = (event) => event.preventDefault();
      const form = make("form", { submit }, tray, row, knobs, said);
      const ground = make("div", { class: "nca-frame" }, this.canvas, this.ring);
      this.main = make("div", { class: "nca-main world-main" }, ground, form);
      this.root.replaceChildren(this.main);
      // A dialog keeps the focus, and Escape leaves it.
      const close = () => this.settle(this.root, "Fill the page");
      this.dialog = make("dialog", { class: "nca-player nca-world", "aria-label": "World", close });
      document.body.append(this.dialog);
    }

    makeSeed(model) {
      const change = () => (this.model = model);
      const input = make("input", { type: "radio", name: "seed", value: model.name, change });
      input.checked = model === this.model;
      const src = new URL(`weights/${model.name}.png`, NCA.here).href;
      const image = make("img", { src, alt: "", width: "40", height: "40" });
      return make("label", {}, input, image, make("span", {}, model.title));
    }

    /* A slider that sets this[name]. */
    makeSlider(name, label, choices, value) {
      const text = make("span", { class: "nca-value", "aria-hidden": "true" });
      const tell = () => {
        [text.textContent, this[name]] = choices[slider.value];
        slider.ariaValueText = text.textContent;
      };
      const range = { type: "range", name, min: 0, max: choices.length - 1, value, input: tell };
      const slider = make("input", range);
      tell();
      return make("label", {}, make("span", {}, label), text, slider);
    }

    /* Over the page, and back. */
    fill() {
      if (this.dialog.open) return this.dialog.close();
      this.dialog.showModal();
      this.settle(this.dialog, "Back to the page");
    }

    settle(place, text) {
      place.append(this.main);
      this.fillButton.textContent = text;
      this.fillButton.focus();
    }

    /* As many cells as there is room for; where they are large, each a whole number of pixels. */
    fit() {
      const sides = [this.canvas.clientHeight, this.canvas.clientWidth];
      const size = (devicePixelRatio * Math.min(...sides)) / LEAST; // of a cell
      if (size === 0) return;
      const cells = (side) => (devicePixelRatio * side) / (size < 3 ? size : Math.floor(size));
      const [height, width] = sides.map((side) => Math.round(cells(side)));
      Object.assign(this.canvas, { height, width });
      this.image = new ImageData(width, height);
      const { world } = this;
      const calmly = "You asked for little motion, so it stands still. Play sets it going.";
      if (!world) return this.restart(this.sown, this.isPlaying ? "" : calmly);
      const before = [world.height, world.width];
      world.resize(height, width);
      world.sow(this.kinds, before);
      this.draw();
    }

    restart(models, message) {
      const { height, width } = this.image;
      this.kinds = models;
      this.world = World.makeWorld(height, width, ++this.seed);
      this.world.sow(models);
      this.due = this.isPlaying || models.length === 0 ? 0 : AHEAD;
      [this.since, this.counted, this.pace] = [performance.now(), 0, 0];
      this.say(message);
      this.draw();
      this.schedule();
    }

    play(isPlaying) {
      [this.isPlaying, this.due, this.pace] = [isPlaying, 0, 0];
      this.playButton.textContent = isPlaying ? "Pause" : "Play";
      this.say(isPlaying ? "Playing." : "Paused.");
      this.draw();
      this.schedule();
    }

    /* Run only while it can be seen. */
    get isOn() {
      return (this.isPlaying || this.due >= 1) && this.isVisible && !document.hidden;
    }

    schedule() {
      if (!this.isOn || !this.world || this.frame) return;
      this.last = this.since = performance.now();
      this.counted = this.world.steps;
      this.frame = requestAnimationFrame((now) => this.run(now));
    }

    run(now) {
      this.frame = 0;
      const { world, isPlaying } = this;
      const late = performance.now() + BUDGET;
      const seconds = Math.max(0, now - this.last) / 1000;
      if (isPlaying) this.due = Math.min(2, this.due + seconds * this.speed);
      this.last = now;
      const before = world.steps;
      while (this.due >= 1 && world.step(late)) {
        this.due--;
        let drops = isPlaying ? (this.rain * world.height * world.width) / LEAST ** 2 : 0;
        for (; drops > Math.random(); drops--) world.rain();
      }
      if (now - this.since > 1000) {
        this.pace = Math.round((1000 * (world.steps - this.counted)) / (now - this.since));
        [this.since, this.counted] = [now, world.steps];
      }
      if (world.steps > before && (isPlaying || this.due < 1)) this.draw();
      if (this.isOn) this.frame = requestAnimationFrame((later) => this.run(later));
    }

    draw() {
      const { world, image } = this;
      world.draw(image.data);
      this.context.putImageData(image, 0, 0);
      const pace = this.isPlaying && this.pace ? ` · ${this.pace} steps/s` : "";
      this.counter.textContent = `Step ${world.steps} · ${world.plants.length} plants${pace}`;
      this.point();
    }

    say(message) {
      this.status.textContent = message;
    }

    /* ---- The gardener ---- */

    /* Show where a key would act, and how far. */
    point() {
      const { height, width } = this.world;
      const [top, left] = [(100 * this.cursor.row) / height, (100 * this.cursor.column) / width];
      this.ring.style.cssText = `top: ${top}%; left: ${left}%; width: ${(200 * BRUSH) / width}%`;
    }

    plant({ row, column }) {
      const { world, model } = this;
      world.erase(row, column, BRUSH);
      const isFull = world.plants.length >= World.MOST;
      if (!isFull) world.plant(model, Math.floor(row), Math.floor(column));
      this.say(isFull ? `There is room for ${World.MOST} plants.` : `Planted: ${model.title}.`);
      this.draw();
    }

    /* Without gaps, however fast the pointer moves. */
    erase(from, to) {
      const [down, right] = [to.row - from.row, to.column - from.column];
      const parts = Math.max(1, Math.ceil(Math.hypot(down, right) / BRUSH));
      for (let i = 1; i <= parts; i++) {
        this.world.erase(from.row + (down * i) / parts, from.column + (right * i) / parts, BRUSH);
      }
      this.draw();
    }

    locate({ clientX, clientY }) {
      const { left, top, width, height } = this.canvas.getBoundingClientRect();
      const { world } = this;
      return {
        row: clamp(((clientY - top) / height) * world.height, world.height - 1),
        column: clamp(((clientX - left) / width) * world.width, world.width - 1),
      };
    }

    /* A finger on the page may mean to scroll: it erases only once it moves sideways. */
    press(event) {
      if (event.button !== 0) return;
      const maySwipe = event.pointerType === "touch" && !this.dialog.open;
      const { clientX: x, clientY: y } = event;
      this.pressed = { x, y, at: this.locate(event), maySwipe, isTap: true };
      if (!maySwipe) this.canvas.setPointerCapture(event.pointerId);
    }

    drag(event) {
      const { pressed } = this;
      this.cursor = this.locate(event);
      this.point();
      if (!pressed) return;
      const across = Math.abs(event.clientX - pressed.x);
      const down = Math.abs(event.clientY - pressed.y);
      if (Math.hypot(across, down) >= DRAG) pressed.isTap = false;
      if (pressed.isTap || (pressed.maySwipe && across <= down)) return;
      pressed.maySwipe = false;
      this.erase(pressed.at, this.cursor);
      pressed.at = this.cursor;
    }

    release() {
      const { pressed } = this;
      this.pressed = null;
      if (pressed?.isTap) this.plant(pressed.at);
      else if (pressed && !pressed.maySwipe) this.say("Erased.");
    }

    handleKey(event) {
      const { cursor, world } = this;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (KEYS[event.key]) {
        const [down, right] = KEYS[event.key];
        cursor.row = clamp(cursor.row + down, world.height - 1);
        cursor.column = clamp(cursor.column + right, world.width - 1);
        this.point();
      } else if (event.key === "Enter" || event.key === " ") this.plant(cursor);
      else if (event.key === "Delete" || event.key === "Backspace") {
        this.erase(cursor, cursor);
        this.say("Erased.");
      } else return;
      event.preventDefault();
    }
  }

  async function revive(root) {
    root.dataset.alive = "";
    try {
      new Page(root, await Promise.all(root.dataset.runs.split(" ").map(NCA.load)));
    } catch (error) {
      root.querySelector("p").textContent = error.message;
    }
  }

  for (const root of document.querySelectorAll(".nca-world")) revive(root);
})();
