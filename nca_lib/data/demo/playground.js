/* The playground: a strip of patterns and every control around a player (player.js). A placeholder
   with data-controls="all" becomes one; with data-link it follows the address of the page. */
(() => {
  "use strict";

  const { make, button, LIMITS, TOOLS } = NCA;
  const SPEEDS = [0.5, 1, 2, 4, 8, 10, 15, 20, 30, 60, 120, 240, LIMITS.speed[1]];
  const SLIDERS = {
    speed: { label: "Speed", text: sayPace },
    grid: { label: "World", text: (v) => `${v} × ${v}` },
    seeds: { label: "Seeds", text: (v) => `${v}` },
    brush: { label: "Eraser", text: (v) => `${v} ${v === 1 ? "cell" : "cells"}` },
    rate: { label: "Fire rate", text: (v) => v.toFixed(2) },
    angle: { label: "Turned by", text: (v) => `${v}°` },
  };
  const KINDS = ["growing", "persistent", "regenerating"]; // what a pattern was trained for
  const NAMES = { erase: "Erase", cut: "Cut", plant: "Plant", turn: "Turn" };
  const THREE = "lizard lizard-persistent lizard-regenerating";
  // Settings worth trying, and what is to be seen in them.
  const TRIES = [
    ["Wound all three", { run: THREE, tool: "cut" }, "Cut: all three take the same wound."],
    ["A crowd", { run: "lizard-regenerating", grid: 96, seeds: 4 }, "No cell knows whose it is."],
    ["Turned axes", { run: "lizard", angle: 45 }, "Cells have no other idea of up."],
    ["In step", { run: "lizard-regenerating", rate: 1 }, "In training half of the cells fired."],
    ["Hidden channel", { run: "lizard-regenerating", view: "hidden 0" }, "What no picture shows."],
    ["Two teachers", { run: "lizard lizard-backprop" }, "Evolution on the left, backpropagation."],
  ];
  const CLIP_SECONDS = 4;

  function sayPace(speed) {
    if (speed >= LIMITS.speed[1]) return "as fast as it goes";
    return speed < 1 ? "1 step in 2 s" : `${speed} steps/s`;
  }

  const nearest = (speed) =>
    SPEEDS.reduce(
      (best, x, i) => (Math.abs(x - speed) < Math.abs(SPEEDS[best] - speed) ? i : best),
      0,
    );

  /* The run of a pattern for one kind of training, and back. */
  const toRun = (picture, kind) => (kind === KINDS[0] ? picture : `${picture}-${kind}`);
  const kindOf = (run) => KINDS.slice(1).find((kind) => run.endsWith(`-${kind}`)) ?? KINDS[0];
  const pictureOf = (run) => run.replace(new RegExp(`-(${KINDS.slice(1).join("|")})$`), "");

  class Playground {
    constructor(root) {
      this.root = root;
      this.labels = new Map(NCA.choices().map(({ runs, label }) => [runs.join(" "), label]));
      this.turn = 0;
      this.base = {
        run: root.dataset.run,
        settings: NCA.readSettings(new Map(Object.entries(root.dataset))),
      };
      const hooks = {
        changed: () => this.refresh(),
        drawn: () => this.clip && this.compose(this.clip.canvas),
      };
      this.player = NCA.player(root, [], { room: 2, tools: "play step restart cut", ...hooks });
      this.build();
      this.address = "";
      window.addEventListener("hashchange", () => this.follow());
      if (!this.follow()) this.choose(this.base.run, { ...this.base.settings });
    }

    build() {
      const pictures = new Set(
        [...this.labels.keys()].filter((run) => !run.includes(" ")).map(pictureOf),
      );
      const strip = pictures.size > 1 ? [this.makeStrip([...pictures])] : [];
      const kinds = pictures.size > 1 ? [this.makeKinds()] : [];
      const tool = ([name, text]) => [name, text];
      this.tools = this.makeRadios("Tool", "tool", Object.entries(NAMES).map(tool), (name) =>
        this.player.apply({ ...this.player.settings, tool: name }),
      );
      const controls = make("form", {
        class: "nca-controls",
        submit: (event) => event.preventDefault(),
      });
      controls.append(...kinds, this.tools, this.makeSliders(), this.makeSaving());
      const tries = TRIES.filter(([, { run }]) => this.labels.has(run));
      const buttons = tries.map(([label, settings, said]) =>
        button(label, () => this.try(settings, said)),
      );
      const row = make("div", { class: "nca-row nca-tries" }, make("span", {}, "Try"), ...buttons);
      this.root.prepend(...strip);
      this.root.append(controls, ...(tries.length ? [row] : []));
    }

    makeRadios(legend, name, items, change) {
      const labels = items.map(([value, text, ...more]) => {
        const input = make("input", { type: "radio", name, value, change: () => change(value) });
        return make("label", {}, input, ...more, make("span", {}, text));
      });
      return make("fieldset", { class: `nca-${name}` }, make("legend", {}, legend), ...labels);
    }

    makeStrip(pictures) {
      const items = pictures.map((picture) => {
        const src = NCA.here && new URL(`weights/${picture}.png`, NCA.here).href;
        const image = src ? [make("img", { src, alt: "", width: "40", height: "40" })] : [];
        return [picture, this.labels.get(picture) ?? picture, ...image];
      });
      this.strip = this.makeRadios("Pattern", "picture", items, (picture) => {
        const kind = kindOf(this.shown?.split(" ").at(-1) ?? "");
        const run = toRun(picture, kind);
        this.choose(
          this.labels.has(run)
            ? run
            : toRun(
                picture,
                KINDS.find((k) => this.labels.has(toRun(picture, k))),
              ),
        );
      });
      return make("form", { class: "nca-strip" }, this.strip);
    }

    makeKinds() {
      this.kinds = this.makeRadios(
        "Trained for",
        "kind",
        KINDS.map((kind) => [kind, kind]),
        (kind) => this.choose(toRun(pictureOf(this.wanted.split(" ")[0]), kind)),
      );
      return this.kinds;
    }

    makeSliders() {
      const sliders = Object.entries(SLIDERS).map(([name, { label }]) => {
        const [min, max, step] = name === "speed" ? [0, SPEEDS.length - 1, 1] : LIMITS[name];
        const input = ({ target }) => {
          const value = name === "speed" ? SPEEDS[+target.value] : +target.value;
          this.player.apply({ ...this.player.settings, [name]: value });
        };
        const slider = make("input", { type: "range", name, min, max, step, input });
        const text = make("span", { class: "nca-value", "aria-hidden": "true" });
        return make("label", {}, make("span", {}, label), text, slider);
      });
      const look = ({ target }) =>
        this.player.apply({ ...this.player.settings, view: target.value });
      this.view = make("select", { change: look });
      this.sliders = make(
        "div",
        { class: "nca-sliders" },
        ...sliders,
        make("label", {}, make("span", {}, "View"), this.view),
      );
      return this.sliders;
    }

    makeSaving() {
      this.clipButton = button("Save clip", () => this.saveClip());
      const saving = [button("Save image", () => this.saveImage())];
      if (window.MediaRecorder) saving.push(this.clipButton);
      if ("link" in this.root.dataset)
        saving.push(button("Link to this setting", () => this.copyLink()));
      return make("div", { class: "nca-row nca-saving" }, ...saving);
    }

    /* Show other runs; if that is not possible, say why and leave everything as it is. */
    async choose(run, settings = this.player.settings, said = "") {
      const turn = ++this.turn;
      this.wanted = run;
      try {
        const models = await Promise.all(run.split(" ").map(NCA.load));
        if (turn !== this.turn) return; // something else has been chosen since
        this.shown = run;
        this.player.settings = settings;
        const titles = models.map(({ title }) => title).join(", ");
        this.player.show(models, said || (turn === 1 ? "" : `${titles}.`));
      } catch (error) {
        if (turn !== this.turn) return;
        this.wanted = this.shown ?? run;
        this.player.say(error.message);
        this.refresh();
      }
    }

    try({ run, ...settings }, said) {
      this.choose(run, settings, said);
      this.remember(new URLSearchParams({ run, ...settings }));
    }

    /* Follow the address of the page; true if it asks for something. */
    follow() {
      if (!("link" in this.root.dataset)) return false;
      const parameters = new URLSearchParams(location.hash.slice(1));
      const isOurs = parameters.has("run") || location.hash === "";
      if (!isOurs || location.hash === this.address) return false; // a section of the page
      this.address = location.hash;
      if (location.hash === "") this.choose(this.base.run, { ...this.base.settings });
      else this.obey(parameters);
      return true;
    }

    obey(parameters) {
      const wanted = parameters.get("run");
      const settings = { ...this.base.settings, ...NCA.readSettings(parameters) };
      if (this.labels.has(wanted)) return this.choose(wanted, settings);
      const run = this.shown ?? this.base.run;
      this.choose(
        run,
        settings,
        `There is no pattern “${wanted.slice(0, 40)}” here. This is another.`,
      );
    }

    /* A new address for what is shown, so that Back leads to the one before. */
    remember(parameters) {
      if (!("link" in this.root.dataset) || `#${parameters}` === this.address) return;
      this.address = `#${parameters}`;
      history.pushState(null, "", this.address);
    }

    async copyLink() {
      this.remember(new URLSearchParams({ run: this.shown ?? this.base.run, ...this.player.now }));
      try {
        await navigator.clipboard.writeText(location.href);
        this.player.say("Copied the link to this setting.");
      } catch {
        this.player.say("The address of this page is now the link to this setting.");
      }
    }

    /* Bring the controls in line with the player. */
    refresh() {
      const { now } = this.player;
      const [first, ...others] = (this.wanted ?? "").split(" ");
      for (const input of this.strip?.querySelectorAll("input") ?? []) {
        if (input.value !== pictureOf(first) || input.checked) continue;
        input.checked = true;
        const [strip, label] = [this.strip, input.parentElement];
        strip.scrollLeft = label.offsetLeft - (strip.clientWidth - label.clientWidth) / 2;
      }
      for (const input of this.kinds?.querySelectorAll("input") ?? []) {
        input.checked = others.length === 0 && input.value === kindOf(first);
        input.disabled = !this.labels.has(toRun(pictureOf(first), input.value));
      }
      if (!now) return;
      for (const input of this.tools.querySelectorAll("input"))
        input.checked = input.value === now.tool;
      for (const input of this.sliders.querySelectorAll("input")) {
        const value = now[input.name];
        input.value = input.name === "speed" ? nearest(value) : value;
        const text = SLIDERS[input.name].text(value);
        input.setAttribute("aria-valuetext", text);
        input.previousSibling.textContent = text;
      }
      const views = this.player.views;
      if (this.view.length !== views.length) {
        this.view.replaceChildren(...views.map((view) => make("option", {}, view)));
      }
      this.view.value = now.view;
    }

    /* All panes side by side on white, enlarged, into a canvas. */
    compose(canvas) {
      const { panes, now } = this.player;
      const side = now.grid * Math.ceil(480 / now.grid);
      const context = canvas.getContext("2d");
      [canvas.width, canvas.height] = [side * panes.length, side];
      context.fillStyle = "white";
      context.fillRect(0, 0, canvas.width, side);
      context.imageSmoothingEnabled = false;
      panes.forEach((pane, i) => context.drawImage(pane.canvas, i * side, 0, side, side));
      return canvas;
    }

    save(blob, ending) {
      const href = URL.createObjectURL(blob);
      make("a", { href, download: `${this.shown.replaceAll(" ", "-")}.${ending}` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 10_000);
    }

    saveImage() {
      if (!this.shown) return;
      this.compose(make("canvas")).toBlob((blob) => this.save(blob, "png"));
      this.player.say("Saved an image.");
    }

    saveClip() {
      if (!this.shown) return;
      // A double click does not end what it has begun, for that would save an empty file.
      if (this.clip) return performance.now() > this.clip.start + 500 && this.clip.stop();
      const canvas = this.compose(make("canvas"));
      const recorder = new MediaRecorder(canvas.captureStream(30));
      recorder.ondataavailable = ({ data }) => {
        this.save(data, recorder.mimeType.includes("mp4") ? "mp4" : "webm");
        this.clip = null;
        this.clipButton.textContent = "Save clip";
        this.player.say("Saved a clip.");
      };
      const stop = () => recorder.state === "recording" && recorder.stop();
      this.clip = { canvas, stop, start: performance.now() };
      this.clipButton.textContent = "Stop the clip";
      recorder.start();
      setTimeout(stop, 1000 * CLIP_SECONDS);
      this.player.play(true, `Recording ${CLIP_SECONDS} seconds.`);
    }
  }

  for (const root of NCA.placeholders("[data-controls]")) new Playground(root);
})();
