/* Evolution in the page: a placeholder <div class="nca-evolve"> becomes a target to choose, a
   population to watch, and what has come of it; with data-size="small" without knobs. Knobs that are
   rarely turned go to <div class="nca-evolve evolve-more">, below the text. Evolution is crew.js's;
   targets, views, knobs and pad have scripts of their own. Texts of files and links reach the page as
   text nodes, never as markup. */
(() => {
  "use strict";

  const { make, button } = NCA;
  const { emoji: BUNDLED, sheet, runs: SHIPPED } = NCA.evolveData;
  const CLIP_SIDE = 480;
  const CURVE_MS = 200; // between two drawings of the curve

  const SAID = {
    idle: "Choose a target and press Start.",
    running: "Evolving: variations of the mean grow, and it moves towards the better ones.",
    paused: "Paused.",
    asleep: "Asleep while the page is hidden.",
    worse: "Worse than an empty grid now. Lower the learning rate or σ, or start anew.",
  };
  const EXPLAINED = {
    dead:
      "A dead member has lost all its cells and scores what an empty grid does. Most score the " +
      "same now, so little tells which way is better. The noise σ or the learning rate is too large.",
    exploded:
      "In an exploded member the numbers have grown far beyond those of any picture. Most members " +
      "are so now, so little tells which way is better. The noise σ, the learning rate or the " +
      "step size is too large.",
  };
  const GONE = { dead: "Died and stopped.", exploded: "Exploded and stopped." };
  const DEMOS = { dead: Evolution.DEAD, exploded: Evolution.EXPLODED };
  // What makes a run; while another one is looked at, it waits with all of this.
  const RUN = [
    ...["evolution", "report", "seen", "shots", "given", "settings", "source"],
    "best", // the mean of least loss: from there a run that dies can go on
    "gentle", // σ, where it was this page that lowered it
  ];
  const WAITING = 5; // runs that can be gone back to
  const MACHINE = "Computed by";
  // What is said once of the graphics card.
  const OF_CARD = {
    on: "The graphics card computes now. It rounds in its own way: histories may differ by that.",
    slower: "Workers compute: they are faster here than the graphics card.",
    differs: "Workers compute: lives on the graphics card come out otherwise.",
    lost: "The graphics card was lost. The workers did this generation again and go on.",
  };
  // evolve.html?gpu=off leaves the graphics card alone, ?gpu=on takes it even where it is slower,
  // as one in software is.
  const ASKED = new URLSearchParams(location.search).get("gpu");
  const GPU = ["on", "off"].includes(ASKED) ? ASKED : "auto";
  const NEXT_SHOT = 1.8; // times as many rollouts as at the one before
  const CAREFUL = 0.02; // σ for pictures of the reader's own: at the lizard's many of them die
  const PATIENCE = 10; // generations in a row, most members of which explode

  const number = (value) => Math.round(value).toLocaleString("en");
  const loss = (value) => (Number.isFinite(value) ? value.toPrecision(3) : "–");
  const time = (seconds) => {
    const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
    return `${minutes}:${String(rest).padStart(2, "0")}`;
  };
  /* A run that waits; the generation that is under way there is its last. */
  const nameRun = ({ source, evolution }) => {
    const last = evolution && evolution.generation + Boolean(evolution.busy);
    return `${source.emoji || source.title}${last ? `, generation ${number(last)}` : ""}`;
  };
  const sideOf = ({ size, padding }) => size + 2 * padding; // in cells

  class Page {
    constructor(root) {
      this.root = root;
      this.isFull = root.dataset.size !== "small";
      this.settings = Evolution.check({});
      this.evolution = this.given = this.best = null; // given: a model from a file or a link
      this.gentle = null;
      this.report = this.seen = null; // the last one, and the last one with pictures
      this.shots = []; // the best of some generations: {rollouts, canvas}
      this.source = null; // {picture, emoji, title} of the target
      this.waiting = []; // other runs, to go back to: the next one last
      this.build();
      this.refresh(SAID.idle);
      document.addEventListener("visibilitychange", () => this.sleep());
      this.begin();
    }

    async begin() {
      const pictures = await Target.readSheet(sheet, BUNDLED.length);
      pictures.forEach((picture, i) => {
        this.tiles[i].getContext("2d").putImageData(picture, 0, 0);
        BUNDLED[i].picture = picture;
      });
      this.choose(BUNDLED[0], SAID.idle);
      if (!this.isFull) return;
      window.addEventListener("hashchange", () => this.readLink());
      this.readLink();
    }

    /* ---- what stands on the page ---- */

    build() {
      this.population = new Views.Population();
      this.growth = new Views.Growth();
      this.growth.element.title = "All members of the population are variations of this network.";
      this.curve = new Views.Curve();
      this.figures = {};
      this.list = make("dl", { class: "evolve-figures" });
      for (const name of ["Mean σ", "Rollouts/s", "Time", MACHINE]) {
        this.figures[name] = make("dd", {}, "–");
        this.list.append(make("div", {}, make("dt", {}, name), this.figures[name]));
      }
      this.status = make("p", { class: "nca-status", role: "status" });
      this.counter = make("p", { class: "nca-counter" }); // moves while the status rests
      this.trouble = make("p", { class: "evolve-trouble", hidden: "" });
      const show = () => this.showButtons();
      this.alarms = [0, 1].map(() => button("", show, { class: "evolve-alarm", hidden: "" }));
      if (this.isFull) this.makeKnobs();
      this.form = make(
        "form",
        { submit: (event) => event.preventDefault() },
        this.makeTargets(),
        this.makeButtons(),
        this.trouble,
        this.makeStage(),
      );
      if (this.isFull) this.form.append(this.makeKeep());
      this.root.replaceChildren(this.form);
      if (!this.isFull) {
        const more = make("a", { href: "evolve.html" }, "Evolve your own");
        return this.root.append(
          make("p", {}, "With targets of your own, and with knobs: ", more, "."),
        );
      }
      this.player = make("div", { class: "evolve-player" });
      this.pad = new Pad.DrawingPad((picture) =>
        this.choose({ picture, emoji: "", title: "Drawing", name: "drawing" }),
      );
      this.root.append(this.player, this.pad.element);
      this.listen();
    }

    makeTargets() {
      this.tiles = BUNDLED.map(() => make("canvas", { width: 128, height: 128 }));
      this.radios = BUNDLED.map((bundled, i) => {
        const change = () => {
          if (this.typed) this.typed.value = "";
          this.choose(bundled);
        };
        const label = bundled.name;
        return make("input", {
          type: "radio",
          name: "evolve-target",
          value: i,
          "aria-label": label,
          change,
        });
      });
      const labels = BUNDLED.map(({ name }, i) =>
        make("label", { title: name }, this.radios[i], this.tiles[i]),
      );
      const fieldset = make(
        "fieldset",
        { class: "evolve-targets" },
        make("legend", {}, "Target"),
        make("div", { class: "evolve-strip" }, ...labels),
      );
      if (!this.isFull) return fieldset;
      this.typed = make("input", {
        type: "text",
        maxlength: 32,
        autocomplete: "off",
        placeholder: "type one",
        "aria-label": "Any other character",
        title: "Type any other character or emoji",
        input: (event) => event.isComposing || this.type(event.target.value),
        compositionend: ({ target }) => this.type(target.value),
      });
      this.file = make("input", {
        type: "file",
        accept: "image/*",
        hidden: "",
        change: ({ target }) => target.files[0] && this.open(target.files[0]),
      });
      fieldset.append(
        make(
          "div",
          { class: "evolve-own" },
          this.typed,
          button("Draw", () => this.pad.open(this.settings.size)),
          button("Picture", () => this.file.click(), { title: "A file, or drop or paste one" }),
          this.file,
        ),
      );
      return fieldset;
    }

    makeButtons() {
      this.startButton = button("Start", () => this.toggle(), { class: "evolve-start" });
      this.backButton = button("Back", () => this.goBack(), { class: "evolve-back", hidden: "" });
      return make(
        "div",
        { class: "nca-row evolve-buttons" },
        this.startButton,
        button("One generation", () => this.step()),
        button("Start anew", () => this.startAnew()),
        this.backButton,
        make("div", { class: "evolve-said" }, this.status, this.counter),
      );
    }

    makeStage() {
      const figure = (name, title, texts, view) =>
        make(
          "figure",
          { class: `evolve-panel ${name}` },
          make("figcaption", {}, make("strong", {}, title), " ", ...texts),
          view,
        );
      const key = (fate) => make("span", { class: `evolve-key is-${fate}` }, fate);
      this.thin = make("span", {}, " Thin lines: longer runs of this book.");
      this.target = make("canvas", {
        class: "evolve-goal",
        role: "img",
        "aria-label": "The target",
      });
      [this.score, this.loss] = [make("strong"), make("span")];
      const says = [this.score, " of an empty grid’s loss: ", this.loss];
      this.scoreLine = make("p", { class: "evolve-score" }, ...says);
      return make(
        "div",
        { class: "evolve-stage" },
        figure(
          "is-population",
          "Population,",
          ["living best first, then ", key("dead"), " ", key("exploded")],
          this.population.element,
        ),
        figure("is-growth", "Mean network,", [this.growth.counter], this.growth.element),
        figure("is-goal", "Target", [], this.target),
        this.scoreLine,
        this.list,
        figure(
          "is-curve",
          "Loss",
          ["of the mean, over rollouts. Pictures: the best of that generation.", this.thin],
          this.curve.element,
        ),
        ...(this.panel ? [this.panel.near] : []),
      );
    }

    makeKeep() {
      this.opener = make("input", {
        type: "file",
        accept: ".json",
        hidden: "",
        change: ({ target }) => target.files[0] && this.open(target.files[0]),
      });
      this.clipButton = button("Save clip", () => this.saveClip());
      const renew = () => this.refreshLink();
      const click = (event) => {
        event.preventDefault();
        this.copyLink();
      };
      const fresh = { pointerenter: renew, focus: renew };
      const events = { ...fresh, click };
      this.link = make("a", { href: "#", class: "evolve-link", ...events }, "Link to this pattern");
      this.breeder = make(
        "a",
        { href: "breed.html", class: "evolve-link", target: "_blank", ...fresh },
        "Breed it",
      );
      this.kept = make("span", { class: "evolve-kept", role: "status" });
      this.renewer = button("Show the newest", () => this.playWithIt());
      this.keepers = [
        button("Play with it", () => this.playWithIt()),
        button("Save picture", () => this.savePicture()),
        ...(window.MediaRecorder ? [this.clipButton] : []),
        button("Save weights", () => this.saveWeights()),
      ];
      return make(
        "div",
        { class: "nca-row evolve-keep" },
        ...this.keepers,
        button("Open weights", () => this.opener.click()),
        this.opener,
        this.link,
        this.breeder,
        this.kept,
      );
    }

    makeKnobs() {
      this.panel = new Knobs.Panel(
        (name) => Evolution.LIVE.has(name),
        (change) => this.set(change),
      );
      const row = make(
        "div",
        { class: "nca-row" },
        button("Show a dead population", () => this.fail("dead")),
        button("Show an exploded one", () => this.fail("exploded")),
        button("Default settings", () => this.restore()),
      );
      const place = document.querySelector(".evolve-more") ?? make("div"); // further down the page
      place.replaceChildren(...this.panel.others, row, this.alarms[1]);
      this.panel.near.append(this.alarms[0]);
    }

    listen() {
      const isFile = ({ dataTransfer }) => [...dataTransfer.types].includes("Files");
      this.root.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
      this.root.addEventListener("drop", (event) => {
        if (!isFile(event)) return;
        event.preventDefault();
        this.open(event.dataTransfer.files[0]);
      });
      document.addEventListener("paste", ({ clipboardData }) => {
        const file = [...(clipboardData?.files ?? [])].find(({ type }) =>
          type.startsWith("image/"),
        );
        if (file) this.open(file);
      });
    }

    /* ---- targets ---- */

    /* Take a target; evolution of another ends here. */
    choose(source, message = `${source.emoji || source.title} is the target. Press Start.`) {
      const wasLost = this.isLost || this.isDemo;
      this.forget();
      this.source = source;
      const { std: usual, learning_rate: most } = Evolution.DEFAULTS;
      const [std, other] = BUNDLED.includes(source) ? [usual, CAREFUL] : [CAREFUL, usual];
      const { std: old, learning_rate: rate } = this.settings;
      const isOther = wasLost || [other, this.gentle].includes(old);
      this.gentle = null;
      if (isOther) this.set({ std, learning_rate: wasLost ? Math.min(rate, most) : rate });
      this.rasterise();
      this.refresh(isOther ? `${message} The noise σ is set to ${std} for it.` : message);
    }

    rasterise() {
      const { size, padding } = this.settings;
      const side = sideOf(this.settings);
      this.goal = Target.rasterise(this.source.picture, size, padding);
      this.empty = Evolution.emptyLoss(this.goal);
      [this.target.width, this.target.height] = [side, side];
      const { data } = Target.toPicture(this.goal, side, 0);
      this.target.getContext("2d").putImageData(new ImageData(data, side), 0, 0);
    }

    type(text) {
      const character = Target.firstCharacter(text);
      if (!character) return;
      this.attempt(() =>
        this.choose({
          picture: Target.type(character),
          emoji: character,
          title: "Typed",
          name: "typed",
        }),
      );
    }

    /* A picture becomes the target, a file of weights is shown. */
    open(file) {
      return this.attempt(async () => {
        if (/\.json$/i.test(file.name)) {
          return this.adopt(await NCA.openFile(file), "From the file");
        }
        const picture = await Target.open(file);
        this.choose({ picture, emoji: "", title: "Picture", name: "picture" });
      });
    }

    /* Do something that may fail because of what a reader has brought; say so in words. */
    async attempt(task) {
      try {
        await task();
      } catch (error) {
        this.refresh(error.message);
      }
      if (this.isFull) this.file.value = this.opener.value = ""; // so that the same file may follow
    }

    readLink() {
      return this.attempt(() => {
        const model = NCA.fromLink(location.hash);
        if (model) this.adopt(model, "From the link");
      });
    }

    /* Show a rule from elsewhere; Start evolves it further, towards the picture it was made for. */
    adopt(model, origin) {
      const names = Object.keys(Evolution.DEFAULTS).filter((name) => name in model);
      const told = Object.fromEntries(names.map((name) => [name, model[name]]));
      const name = `${origin}: ${model.emoji} ${model.title}`;
      let then = "Start evolves it further.";
      try {
        this.settings = Evolution.check({ ...this.settings, ...told });
      } catch (error) {
        then = `It cannot be evolved here: ${error.message}`;
      }
      this.choose(this.findSource(model));
      this.given = model;
      this.refresh(`${name} grows here. ${then}`);
    }

    /* The target of a rule from elsewhere, as far as it is known; else the present one. */
    findSource({ target, size, padding, emoji, title }) {
      const bundled = BUNDLED.find((other) => other.emoji === emoji);
      if (bundled) return bundled;
      const told = { emoji, title, name: "own" };
      if (target) return { ...told, picture: Target.toPicture(target, size, padding) };
      try {
        return { ...told, picture: Target.type(Target.firstCharacter(emoji)) };
      } catch {
        return this.source;
      }
    }

    /* ---- evolution ---- */

    create() {
      const told = { emoji: this.source.emoji, title: this.source.title };
      this.rasterise();
      const isShown = () => this.evolution === evolution; // one that waits may still have a word
      const evolution = Evolution.create({ ...this.settings, ...told }, this.goal, {
        gpu: GPU,
        weights: this.given?.weights,
        onGeneration: (report) => isShown() && this.hear(report),
        onState: () => isShown() && this.refresh(),
        onError: (error) => isShown() && this.refresh(error.message),
      });
      this.evolution = evolution;
    }

    /* Make room for another run. One that has come to something can be gone back to. */
    forget(add = "push") {
      const isWorthIt = this.evolution?.generation && !this.isDemo;
      if (isWorthIt) this.keep(add);
      else this.evolution?.stop();
      this.evolution = this.report = this.seen = this.given = this.best = null;
      this.shots = [];
      this.isAsleep = this.isDemo = this.isWorse = false;
      this.wild = 0; // generations in a row, most members of which exploded
      this.shownState = null; // whatever was said was of the run before
      if (this.isFull) this.kept.textContent = "";
    }

    /* Where too many wait, one that has failed goes, or else the first. */
    keep(add) {
      const { waiting, evolution } = this;
      evolution?.pause();
      const run = Object.fromEntries(RUN.map((name) => [name, this[name]]));
      if (evolution) run.settings = evolution.settings;
      waiting[add](run);
      if (waiting.length <= WAITING) return;
      const failed = waiting.findIndex((other) => GONE[other.evolution?.state]);
      waiting.splice(Math.max(0, failed), 1)[0].evolution?.stop();
    }

    /* The run before, as it was; the present one waits until all others have had their turn. */
    goBack() {
      const before = this.waiting.pop();
      this.forget("unshift");
      Object.assign(this, before);
      this.rasterise();
      this.growth.model = null; // begins at once
      this.view();
      this.refresh(this.isLost ? this.tellEnd() : "Back in this run. It is paused.");
      if (this.backButton.hidden) this.startButton.focus(); // where the keyboard goes on
    }

    toggle() {
      if (this.state === "running") return this.evolution.pause();
      if (this.isLost) this.soften();
      this.attemptStart(() => this.evolution.run());
    }

    /* After one that has died or exploded, a new run from its best mean, if one was better than
       nothing, with the usual noise and steps, or half of them. */
    soften() {
      const { best, settings } = this;
      const { std, learning_rate: rate } = Evolution.DEFAULTS;
      this.forget();
      this.gentle = settings.std > std ? std : settings.std / 2;
      this.set({ std: this.gentle, learning_rate: Math.min(settings.learning_rate, rate) });
      this.given = best;
    }

    step() {
      this.attemptStart(async () => {
        const { generation, fitness, best } = await this.evolution.step();
        if (this.state !== "paused") return;
        const [share, worst] = [best, Math.max(...fitness)].map((value) => this.toShare(value));
        this.say(
          `Generation ${number(generation)}: losses from ${share}, the best, to ${worst}. Then the ` +
            "mean moved.",
        );
      });
    }

    toShare(value) {
      const percent = (100 * value) / this.empty;
      return percent < 1000 ? `${Math.round(percent)}%` : ">10×";
    }

    startAnew() {
      this.forget();
      this.toggle();
    }

    attemptStart(go) {
      this.attempt(() => {
        if (!this.evolution) this.create();
        return go();
      });
    }

    /* Show a population that fails; what was there waits. */
    fail(name) {
      if (!this.isDemo && (this.evolution || !this.waiting.length)) {
        this.keep("push");
        this.evolution = null;
      }
      this.forget();
      this.set(DEMOS[name]);
      this.toggle();
      this.isDemo = true;
      this.showButtons();
    }

    showButtons() {
      this.startButton.parentElement.scrollIntoView();
    }

    restore() {
      const { seed } = this.settings;
      this.set({ ...Evolution.DEFAULTS, seed });
      this.say("The default settings. Press Start anew to begin with all of them.");
    }

    /* Take over settings: at once where they may change, else with the next start. */
    set(change) {
      const old = this.settings;
      try {
        const fits = Math.min(change.window ?? old.window, change.num_steps ?? old.num_steps);
        this.settings = Evolution.check({ ...old, ...change, window: fits });
      } catch (error) {
        return this.refresh(error.message);
      }
      const isLive = (name) => Evolution.LIVE.has(name);
      const changed = Object.keys(this.settings).filter(
        (name) => this.settings[name] !== old[name],
      );
      if (this.evolution) {
        const live = changed.filter(isLive).map((name) => [name, this.settings[name]]);
        if (live.length) this.evolution.change(Object.fromEntries(live));
        if (changed.every(isLive)) return this.refresh();
        return this.refresh("This takes effect when you press Start anew.");
      }
      if (changed.includes("size")) this.rasterise();
      const isOther = ["channels", "hidden", "step_size"].some((name) => changed.includes(name));
      if (isOther) this.given = null; // its weights do not fit
      this.refresh();
    }

    hear(report) {
      this.report = report;
      if (report.pictures) {
        this.seen = report;
        this.shoot(report);
        this.view();
      }
      this.watch(report);
      if (this.isLost) this.refresh(this.tellEnd());
      else if (report.generation === 1) this.refresh();
      this.showFigures();
      if (report.measured) this.judge(report);
    }

    /* Stop a run most of whose members stay exploded, though their losses are finite still. */
    watch({ fitness, pictures }) {
      const exploded = fitness.filter((loss) => Views.isExploded(loss, this.empty)).length;
      this.wild = exploded > fitness.length / 2 ? this.wild + 1 : 0;
      if (this.isLost || this.wild < PATIENCE || !pictures) return; // what ends is to be seen
      this.evolution.pause();
      this.evolution.become("exploded");
    }

    /* Keep the best mean, and say while a run that was better than an empty grid is worse. */
    judge({ loss }) {
      if (loss < (this.best?.loss ?? this.empty)) this.best = this.evolution.model();
      const isWorse = Boolean(this.best) && !(loss <= 1.2 * this.empty);
      if (isWorse === this.isWorse || this.isLost) return;
      this.isWorse = isWorse;
      this.say(SAID[isWorse ? "worse" : this.state]);
    }

    tellEnd() {
      const { faults, count } = this.population;
      return this.state === "dead"
        ? `Dead: ${faults.dead} of ${count} members. Exploded: ${faults.exploded}.`
        : `Exploded: ${faults.exploded} of ${count} members. Dead: ${faults.dead}.`;
    }

    sleep() {
      if (document.hidden && this.state === "running") {
        this.isAsleep = true;
        this.evolution.pause();
      } else if (!document.hidden && this.isAsleep) {
        this.isAsleep = false;
        this.evolution.run();
      }
    }

    /* ---- showing ---- */

    get state() {
      return this.evolution?.state ?? "idle";
    }

    /* The rule on show: what has evolved, or came from elsewhere. */
    get model() {
      return this.evolution?.generation ? this.evolution.model() : this.given;
    }

    get isLost() {
      return this.state === "dead" || this.state === "exploded";
    }

    say(message) {
      this.status.textContent = message;
    }

    /* Bring everything on the page in line; without a message, say what the state is. */
    refresh(message) {
      const { state } = this;
      const go = this.evolution?.generation ? "Go on" : "Start";
      const again = this.isLost ? `${this.best ? "Go on" : "Start"} gently` : go;
      this.startButton.textContent = state === "running" ? "Pause" : again;
      this.root.dataset.state = state;
      const isNews = state !== this.shownState;
      this.shownState = state;
      if (message !== undefined) this.say(message);
      else if (isNews && !this.isLost) this.say(this.isAsleep ? SAID.asleep : SAID[state]);
      if (this.source) {
        const chosen = BUNDLED.indexOf(this.source);
        this.radios.forEach((radio, i) => (radio.checked = i === chosen));
        if (!this.report) this.view();
      }
      this.explain(EXPLAINED[state], again);
      const runs = this.waiting.map(nameRun).reverse();
      this.backButton.hidden = !runs.length;
      this.backButton.textContent = `Back to ${runs[0]}`;
      this.backButton.title = `Waiting: ${runs.join("; ")}`;
      if (this.isFull) this.refreshControls();
      this.showFigures(true);
    }

    /* What is wrong with the population, if anything, and what the button does about it. */
    explain(text, label) {
      for (const element of [this.trouble, ...this.alarms]) element.hidden = !text;
      if (!text) return;
      const from = this.best ? " from the best mean so far" : "";
      const href = "05_es_training.html#what-goes-wrong";
      const more = make("a", { href, target: "_blank", rel: "noopener" }, "More in chapter 5");
      const cure = ` lowers them and begins a new run${from}. `;
      for (const alarm of this.alarms) alarm.textContent = `${GONE[this.state]} See why`;
      this.trouble.replaceChildren(text, " ", make("strong", {}, label), cure, more);
    }

    refreshControls() {
      this.panel.show(this.settings);
      const { model } = this;
      const hasSome = model && !(this.isLost && Views.isBarren(model));
      for (const keeper of [...this.keepers, this.renewer]) keeper.disabled = !hasSome;
      this.link.hidden = this.breeder.hidden = !hasSome;
      this.refreshLink();
    }

    /* The link to what there is by now. */
    refreshLink() {
      if (!this.model) return;
      this.link.href = `#${NCA.toLink(this.model)}`;
      this.breeder.href = `breed.html${this.link.hash}`;
    }

    /* Population and growth of what there is. */
    view() {
      const { settings, model } = this;
      if (this.seen) this.showPopulation();
      else this.population.show({ count: settings.population, side: sideOf(settings) });
      this.growth.show(model, sideOf(model ?? settings));
    }

    /* Keep the best of this generation for the curve, if it is time for one. */
    shoot({ rollouts, pictures }) {
      if (rollouts < NEXT_SHOT * (this.shots.at(-1)?.rollouts ?? 0)) return;
      const side = sideOf(this.evolution.settings);
      const canvas = make("canvas", { width: side, height: side });
      const image = new ImageData(pictures.slice(0, 4 * side * side), side);
      canvas.getContext("2d").putImageData(image, 0, 0);
      this.shots.push({ rollouts, canvas });
    }

    showPopulation() {
      const { pictures, fitness } = this.seen;
      const losses = Float32Array.from(fitness).sort();
      const { settings, empty } = this.evolution;
      this.population.show({
        count: fitness.length,
        side: sideOf(settings),
        pictures,
        losses,
        empty,
      });
      const { dead, exploded } = this.population.faults;
      const faults = [dead && `${dead} dead`, exploded && `${exploded} exploded`].filter(Boolean);
      const label = [`${fitness.length} members, living best first`, ...faults].join(", ");
      this.population.element.setAttribute("aria-label", label);
    }

    /* The numbers, and the curve where it is time for it. */
    showFigures(isNow = false) {
      const { evolution, report } = this;
      const [rollouts, value] = [evolution?.rollouts ?? 0, evolution?.loss ?? Number.NaN];
      Object.assign(document.documentElement.dataset, {
        rollouts,
        loss: value,
        empty: this.empty ?? "",
        state: this.state,
        card: evolution?.card ?? "",
      });
      this.scoreLine.style.visibility = Number.isNaN(value) ? "hidden" : ""; // it keeps its room
      this.score.textContent = this.toShare(value);
      this.loss.textContent = loss(value);
      const figures = {
        "Mean σ": loss(report?.sigma ?? Number.NaN),
        "Rollouts/s": report ? number(report.rate) : "–",
        Time: time(evolution?.seconds ?? 0),
      };
      for (const [name, text] of Object.entries(figures)) this.figures[name].textContent = text;
      if (report) this.showMachine();
      else this.figures[MACHINE].textContent = "–";
      const generation = number(evolution?.generation ?? 0);
      this.counter.textContent = `Generation ${generation} · ${number(rollouts)} rollouts`;
      const now = performance.now();
      if (!this.empty || (!isNow && now - (this.drawn ?? 0) < CURVE_MS)) return;
      this.drawn = now;
      this.showCurve();
    }

    /* Who computes, and why if there is a choice. */
    showMachine({ card, cardTrouble, workers } = this.evolution) {
      const many = workers === 1 ? "1 worker" : `${workers} workers`;
      const who = card === "on" ? "graphics card" : workers ? many : "this page";
      const { [MACHINE]: figure } = this.figures;
      figure.textContent = who;
      figure.title = OF_CARD[card] ?? cardTrouble;
      if (card !== this.shownCard && OF_CARD[card]) this.say(OF_CARD[card]);
      this.shownCard = card;
    }

    showCurve() {
      const points = (this.evolution?.history ?? []).map(({ rollouts, loss }) => [rollouts, loss]);
      const isLizard = this.source?.emoji === "🦎" && this.settings.size === 24;
      const others = isLizard ? SHIPPED : [];
      this.thin.hidden = !isLizard;
      this.curve.show([...others, { kind: "own", points }], this.empty, this.shots);
    }

    /* ---- afterwards ---- */

    record() {
      const { source, evolution, given } = this;
      const told = { name: source.name, title: source.title, emoji: source.emoji };
      return evolution?.generation ? evolution.toRecord(told) : NCA.encode(given, told);
    }

    playWithIt() {
      const root = make("div", { class: "nca-player" });
      const close = () => {
        this.player.replaceChildren();
        this.keepers[0].focus(); // where the keyboard goes on
      };
      const row = make("div", { class: "nca-row" }, this.renewer, button("Close player", close));
      this.player.replaceChildren(root, row);
      const record = this.record();
      const { generation, settings } = this.evolution ?? {};
      const run = generation ? `, seed ${settings.seed}, generation ${number(generation)}` : "";
      const own = { ...record, name: "own", title: record.title + run };
      NCA.player(root, own, { room: 1.5, tools: "play step restart cut" });
      this.player.scrollIntoView({ behavior: "auto", block: "start" });
      this.say("The pattern lives in the player below. Evolution goes on without it.");
    }

    /* The growing mean on white, enlarged. */
    compose(canvas) {
      const cells = this.growth.element.width;
      const side = cells * Math.ceil(CLIP_SIDE / cells);
      if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
      const context = canvas.getContext("2d");
      context.fillStyle = "white";
      context.fillRect(0, 0, side, side);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.growth.element, 0, 0, side, side);
      return canvas;
    }

    async copyLink() {
      this.refreshLink();
      this.kept.textContent = await NCA.copyLink(this.link.href);
    }

    save(blob, ending) {
      NCA.save(blob, `${this.source.name}.${ending}`);
    }

    savePicture() {
      this.growth.finish();
      this.compose(make("canvas")).toBlob((blob) => this.save(blob, "png"));
      this.kept.textContent = "Saved a picture.";
    }

    saveWeights() {
      NCA.saveRecord(this.record(), this.source.name);
      this.kept.textContent = "Saved the weights.";
    }

    /* One life, from the seed to the end of its rest. */
    saveClip() {
      if (this.clip) return;
      this.clip = this.compose(make("canvas"));
      const recorder = new MediaRecorder(this.clip.captureStream(30));
      const follow = () => this.compose(this.clip);
      recorder.ondataavailable = ({ data }) => {
        this.save(data, recorder.mimeType.includes("mp4") ? "mp4" : "webm");
        this.growth.listeners.delete(follow);
        this.clip = null;
        this.clipButton.disabled = false;
        this.kept.textContent = "Saved a clip.";
      };
      this.clipButton.disabled = true;
      this.growth.listeners.add(follow);
      recorder.start();
      this.growth.live(() => recorder.stop());
      this.kept.textContent = "Recording one life.";
    }
  }

  for (const root of document.querySelectorAll(".nca-evolve:not([data-alive], .evolve-more)")) {
    root.dataset.alive = "";
    new Page(root);
  }
})();
