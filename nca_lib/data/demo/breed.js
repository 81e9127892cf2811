/* Breed: a placeholder <div class="nca-evolve nca-breed" data-run="lizard"> becomes nine living
   mutants of a run, of which readers choose; the next nine come from those. With data-size="small"
   without family tree and files. The noise is that of evolve.js, whitened; there is no loss. */
var Breed = (() => {
  "use strict";

  const { make, button } = NCA;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const SVG = "http://www.w3.org/2000/svg";
  const COUNT = 9;
  const CROSS = 4; // a purpose of random bits beside those of evolve.js
  const SIGMAS = [0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1];
  const USUAL = 0.02;
  const FRAME = 50; // ms of one step
  const REST = 100; // steps' time for which a grown pattern is held
  const SLICE = 12; // ms that this may take without a break
  const [WIDE, HIGH, FACE] = [60, 52, 44]; // of the family tree, in pixels
  const NOTHING = new Float32Array(); // there is no target

  /* ---- From parents to children ---- */

  const meanOf = (parents) =>
    parents[0].map((_, d) => parents.reduce((sum, weights) => sum + weights[d], 0) / parents.length);

  /* Each hidden unit whole, what it sees and what it answers, from one of the parents. */
  function cross(parents, { channels, hidden }, bits) {
    const whose = Array.from({ length: hidden + 1 }, () => bits() % parents.length);
    const answers = (3 * channels + 1) * hidden; // where those of the hidden units begin
    const unit = (d) => (d < answers ? d % hidden : Math.floor((d - answers) / channels));
    return parents[0].map((_, d) => parents[whose[unit(d)]][d]);
  }

  /* Nine mutants, Float32Array each: of the parents' mean, or `isCrossed`, each of another mixture
     of their hidden units. The noise is whitened by what the cells of the mean see. Yields in
     between. */
  function* breed(model, parents, { std, seed, isCrossed }) {
    const settings = { ...model, strategy: "whitened", std, seed, shared_luck: true };
    const mean = meanOf(parents);
    const state = ES.init(settings, mean);
    const world = Rollout.makeWorld(model, NOTHING);
    yield* ES.look(settings, state, (weights) => world.moments(weights, ES.luck(settings, state, 0)));
    const children = [];
    for (let k = 0; k < COUNT; k++) {
      const shaken = ES.shake(settings, state, ES.noiseOf(settings, state, k));
      const start = isCrossed ? cross(parents, model, ES.makeBits(seed, 0, CROSS, k)) : mean;
      children.push(start.map((weight, d) => weight + shaken[d]));
      yield;
    }
    return children;
  }

  /* Do long work without blocking the page. */
  async function inSlices(work) {
    for (;;) {
      const late = performance.now() + SLICE;
      while (performance.now() < late) {
        const { done, value } = work.next();
        if (done) return value;
      }
      await new Promise((go) => setTimeout(go));
    }
  }

  /* The picture a rule ends in; yields after each step. */
  function* portrait(model, weights) {
    const world = Rollout.makeWorld(model, NOTHING);
    const fires = Rollout.fireSchedule(ES.makeBits(1, 0, ES.LUCK), model);
    yield* world.live(weights, fires, 0);
    return new ImageData(world.draw(), world.side);
  }

  /* ---- Nine lives, over and over ---- */

  class Nine {
    constructor(changed) {
      this.places = Array.from({ length: COUNT }, (_, k) => {
        const canvas = make("canvas");
        const label = `Child ${k + 1}`;
        const click = ({ currentTarget }) => {
          currentTarget.ariaPressed = currentTarget.ariaPressed !== "true";
          changed();
        };
        const place = button("", click, { "aria-label": label, "aria-pressed": false });
        place.append(canvas);
        return { place, canvas, context: canvas.getContext("2d") };
      });
      const told = { class: "breed-nine", role: "group", "aria-label": "Nine mutants" };
      this.element = make("div", told, ...this.places.map(({ place }) => place));
      this.counter = make("p", { class: "nca-counter" });
      this.frame = this.due = this.last = 0;
      new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1).isIntersecting;
        this.schedule();
      }).observe(this.element);
      document.addEventListener("visibilitychange", () => this.schedule());
      calm.addEventListener("change", () => this.begin());
    }

    get chosen() {
      return [...this.places.keys()].filter((k) => this.places[k].place.ariaPressed === "true");
    }

    show({ model, children, chosen }) {
      this.model = model;
      this.places.forEach((one, k) => {
        one.place.ariaPressed = chosen.includes(k);
        one.world = Rollout.makeWorld(model, NOTHING);
        one.world.setWeights(children[k]);
        one.canvas.width = one.canvas.height = one.world.side;
      });
      this.lives = 0;
      this.begin();
      this.schedule();
    }

    /* From one cell, all with the same luck. Who asks for little motion sees what has grown. */
    begin() {
      if (!this.model) return;
      this.count = 0;
      this.lives++;
      for (const { world } of this.places) world.plant();
      while (calm.matches && this.count < this.model.num_steps) this.advance();
      this.draw();
    }

    advance() {
      const { num_steps: steps } = this.model;
      if (this.count % steps === 0) {
        const bits = ES.makeBits(this.lives, this.count, ES.LUCK);
        this.fires = Rollout.fireSchedule(bits, this.model);
      }
      for (const { world } of this.places) world.step(this.fires[this.count % steps]);
      this.count++;
    }

    draw() {
      for (const { context, world } of this.places) {
        context.putImageData(new ImageData(world.draw(), world.side), 0, 0);
      }
      const text = `Step ${Math.min(this.count, this.end)} of ${this.end}`;
      if (this.counter.textContent !== text) this.counter.textContent = text;
    }

    /* What was trained to last is seen for longer. */
    get end() {
      const { num_steps: steps, age, pool } = this.model;
      return age || pool ? Math.max(steps, 128) : steps;
    }

    schedule() {
      const isOn = this.model && this.isVisible && !document.hidden && !calm.matches;
      if (isOn && !this.frame) this.frame = requestAnimationFrame((now) => this.run(now));
    }

    run(now) {
      this.frame = 0;
      this.due += Math.min((now - this.last) / FRAME, 2);
      this.last = now;
      for (; this.due >= 1; this.due--) {
        if (this.count >= this.end + REST) this.begin();
        else if (this.count >= this.end) this.count++;
        else this.advance();
      }
      this.draw();
      this.schedule();
    }
  }

  /* ---- Family trees: a generation is {model, number, from, parents, face, children, chosen, next};
     `next` are the generations that come from it, and `before` the one it comes from ---- */

  class Tree {
    constructor(visit) {
      this.visit = visit;
      this.lines = document.createElementNS(SVG, "svg");
      this.faces = make("div", { class: "breed-faces" }, this.lines);
      const told = { class: "breed-tree", role: "group", "aria-label": "Family tree", tabindex: 0 };
      this.element = make("div", told, this.faces);
    }

    show(roots, now) {
      const [places, lines] = [[], []];
      let rows = 0;
      const lay = (node) => {
        const row = node.next.length ? node.next.map(lay)[0] : rows++;
        places.push([node, row]);
        const [x, y] = [node.number * WIDE + FACE / 2, row * HIGH + FACE / 2];
        for (const next of node.next) {
          const [, end] = places.find(([other]) => other === next);
          lines.push(`M${x} ${y}H${x + WIDE / 2}V${end * HIGH + FACE / 2}H${x + WIDE}`);
        }
        return row;
      };
      roots.forEach(lay);
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", lines.join(""));
      this.lines.replaceChildren(path);
      const buttons = places.map(([node, row]) => this.makeFace(node, row, node === now));
      const width = (1 + Math.max(...places.map(([{ number }]) => number))) * WIDE;
      this.faces.style.cssText = `width: ${width}px; height: ${rows * HIGH}px`;
      this.faces.replaceChildren(this.lines, ...buttons);
      // In sight, without moving the page.
      const { offsetLeft, offsetTop } = buttons[places.findIndex(([node]) => node === now)];
      this.element.scrollTo(offsetLeft - 4 * WIDE, offsetTop - 2 * HIGH);
    }

    makeFace(node, row, isNow) {
      const { width, height } = node.face;
      const canvas = make("canvas", { width, height });
      canvas.getContext("2d").putImageData(node.face, 0, 0);
      const face = button("", () => this.visit(node), {
        "aria-label": `Generation ${node.number}, from ${node.from}`,
        "aria-current": isNow,
        style: `left: ${node.number * WIDE}px; top: ${row * HIGH}px`,
      });
      face.append(canvas);
      return face;
    }
  }

  /* ---- The page ---- */

  class Page {
    constructor(root) {
      this.root = root;
      this.isFull = root.dataset.size !== "small";
      this.roots = []; // of the family trees
      this.seed = 0;
      this.build();
      const follow = () => this.attempt(() => this.readLink());
      if (this.isFull) window.addEventListener("hashchange", follow);
      this.begin();
    }

    /* Where a link cannot be used the run of the page stands in for it, and the page says so. */
    async begin() {
      let trouble = "";
      try {
        if (this.isFull && (await this.readLink())) return;
      } catch (error) {
        trouble = error.message;
      }
      await this.attempt(() => this.take(this.root.dataset.run));
      if (trouble) this.say(trouble);
    }

    build() {
      this.nine = new Nine(() => this.refresh());
      this.status = make("p", { class: "nca-status", role: "status" });
      this.breedButton = button("Breed", () => this.breed(), { class: "evolve-start" });
      this.othersButton = button("Nine others", () => this.others());
      this.backButton = button("Back", () => this.visit(this.node.before));
      this.forwardButton = button("Forward", () => this.visit(this.node.visited));
      const said = make("div", { class: "evolve-said" }, this.status, this.nine.counter);
      const buttons = [this.breedButton, this.othersButton, this.backButton, this.forwardButton];
      const row = make("div", { class: "nca-row evolve-buttons" }, ...buttons, said);
      const parts = [this.nine.element, this.makeKnobs(), row];
      if (this.isFull) {
        this.tree = new Tree((node) => this.visit(node));
        this.player = make("div", { class: "evolve-player" });
        parts.push(this.makeKeep(), this.tree.element, this.player);
      }
      const submit = (event) => event.preventDefault();
      this.root.replaceChildren(make("form", { submit }, ...parts));
      this.say("Mutating …");
    }

    makeKnobs() {
      const sigma = make("output");
      const position = SIGMAS.indexOf(USUAL);
      const tell = () => {
        sigma.textContent = this.std;
        this.slider.ariaValueText = this.std;
      };
      const range = { type: "range", min: 0, max: SIGMAS.length - 1, value: position };
      this.slider = make("input", { ...range, id: "breed-std", input: tell });
      tell();
      const kinds = ["their mean", "a mixture of their units"];
      const options = kinds.map((text, value) => make("option", { value }, text));
      this.crossing = make("select", {}, ...options);
      const label = (text, ...controls) => make("label", {}, make("span", {}, text), ...controls);
      const knobs = [
        label("Noise σ", this.slider, sigma),
        label("Several parents give", this.crossing),
      ];
      if (this.isFull) {
        const runs = NCA.choices().filter((choice) => choice.runs.length === 1);
        const entry = ({ label, runs: [name] }) => make("option", { value: name }, label);
        const change = ({ target }) => this.attempt(() => this.take(target.value));
        this.runs = make("select", { change }, ...runs.map(entry));
        knobs.unshift(label("Begin with", this.runs));
      }
      return make("div", { class: "breed-knobs" }, ...knobs);
    }

    makeKeep() {
      this.opener = make("input", {
        type: "file",
        accept: ".json",
        hidden: "",
        change: ({ target }) => target.files[0] && this.open(target.files[0]),
      });
      const click = (event) => {
        event.preventDefault(); // the families on this page would be lost
        NCA.copyLink(this.link.href).then((told) => this.say(told));
      };
      this.link = make("a", { href: "#", click }, "Link to it");
      this.evolver = make("a", { href: "evolve.html", target: "_blank" }, "Evolve it");
      this.subject = make("strong", {}, "The parent:");
      return make(
        "div",
        { class: "nca-row evolve-keep" },
        this.subject,
        button("Play with it", () => this.play()),
        button("Save weights", () => NCA.saveRecord(this.record, "bred")),
        this.link,
        this.evolver,
        button("Open weights", () => this.opener.click()),
        this.opener,
      );
    }

    get std() {
      return SIGMAS[this.slider.value];
    }

    say(message) {
      this.status.textContent = message;
    }

    /* Do something that may fail because of what a reader has brought; say so in words. */
    async attempt(task) {
      try {
        return await task();
      } catch (error) {
        this.say(error.message);
      }
    }

    /* ---- Where a family begins ---- */

    async take(name) {
      await NCA.load(name);
      return this.found(NCA.open(NCA.records.get(name)));
    }

    /* Whether the address holds a pattern, which is shown. */
    async readLink() {
      const model = NCA.fromLink(location.hash);
      if (model) await this.found(model);
      return Boolean(model);
    }

    open(file) {
      return this.attempt(async () => {
        this.opener.value = ""; // so that the same file may follow
        return this.found(await NCA.openFile(file));
      });
    }

    found(model) {
      if (this.runs) this.runs.value = model.name; // none, for one from elsewhere
      return this.add(model, null, [model.weights], model.title);
    }

    /* ---- Generations ---- */

    /* A generation, of children of these parents, behind another; it is shown. */
    async add(model, before, parents, from) {
      const { std } = this;
      const asked = (this.asked = { std, seed: this.seed++, isCrossed: this.crossing.value === "1" });
      this.busy(true);
      const children = await inSlices(breed(model, parents, asked));
      const weights = meanOf(parents);
      const face = await inSlices(portrait(model, weights));
      if (asked !== this.asked) return; // something else was asked for meanwhile
      const number = before ? before.number + 1 : 0;
      const own = { model, number, before, parents, from, std, weights, face, children };
      const node = { ...own, chosen: [], next: [] };
      (before?.next ?? this.roots).push(node);
      this.visit(node);
    }

    breed() {
      const { model, children } = this.node;
      const { chosen } = this.nine;
      const numbers = chosen.map((k) => k + 1).join(", ");
      const several = this.crossing.value === "1" ? "a mixture" : "the mean";
      const from = chosen.length > 1 ? `${several} of children ${numbers}` : `child ${numbers}`;
      const parents = chosen.map((k) => children[k]);
      return this.add(model, this.node, parents, from);
    }

    others() {
      const { model, before, parents, from } = this.node;
      return this.add(model, before, parents, from);
    }

    visit(node) {
      if (this.node) this.node.chosen = this.nine.chosen;
      this.node = node;
      if (node.before) node.before.visited = node;
      this.nine.show(node);
      this.busy(false);
      const whose = node.before ? `of ${node.from} of the generation before` : `of ${node.from}`;
      this.say(`Generation ${node.number}: nine mutants ${whose}, at σ ${node.std}. Choose.`);
      this.tree?.show(this.roots, node);
      this.refresh();
    }

    busy(isBusy) {
      this.root.dataset.state = isBusy ? "busy" : "ready";
      if (isBusy) for (const one of [this.breedButton, this.othersButton]) one.disabled = true;
    }

    refresh() {
      const { chosen } = this.nine;
      this.breedButton.disabled = chosen.length === 0;
      this.othersButton.disabled = false;
      this.backButton.disabled = !this.node.before;
      this.forwardButton.disabled = !this.node.visited;
      if (!this.isFull) return;
      const several = chosen.length ? `Mean of ${chosen.length}:` : "The parent:";
      this.subject.textContent = chosen.length === 1 ? `Child ${chosen[0] + 1}:` : several;
      this.link.href = `#${NCA.toLink(this.kept)}`;
      this.evolver.href = `evolve.html${this.link.hash}`;
    }

    /* ---- Afterwards ---- */

    /* The one that is chosen, as a model; of several the mean; of none the one they all come from. */
    get kept() {
      const { node, nine } = this;
      const chosen = nine.chosen.map((k) => node.children[k]);
      const title = `${node.model.title}, bred`.replace(/(, bred)+$/, ", bred");
      const weights = chosen.length ? meanOf(chosen) : node.weights;
      return { ...node.model, title, weights, target: null };
    }

    /* With a target, premultiplied, where no emoji names one: what the parent grew. */
    get record() {
      const { face, model } = this.node;
      const { data } = face;
      const premultiply = (value, i) => (i % 4 < 3 ? (value * data[i | 3]) / 255 : value) / 255;
      const target = model.emoji ? null : Float32Array.from(data, premultiply);
      return NCA.encode(this.kept, { name: "bred", target });
    }

    play() {
      const root = make("div", { class: "nca-player" });
      const close = button("Close player", () => this.player.replaceChildren());
      this.player.replaceChildren(root, make("div", { class: "nca-row" }, close));
      NCA.player(root, this.record, { room: 1.5, tools: "play step restart cut" });
      this.player.scrollIntoView({ block: "nearest" });
    }

  }

  for (const root of document.querySelectorAll(".nca-breed:not([data-alive])")) {
    root.dataset.alive = "";
    new Page(root);
  }

  return { breed, cross, meanOf };
})();
