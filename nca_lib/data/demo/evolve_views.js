/* What evolution looks like: the population in small pictures, the growth of the mean, the loss over
   rollouts. Each view has an element, and is told what to show. One global, Views. */
var Views = (() => {
  "use strict";

  const { make, paint } = NCA;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const SVG = "http://www.w3.org/2000/svg";
  const isExploded = (loss, empty) => !(loss < 4 * empty);
  const FRAME = 40; // ms of one step of growth
  const REST = 90; // steps' time that the grown pattern is held: most of the time it is seen

  /* A canvas as large as it is shown, in pixels of the screen; `draw` is called when that changes. */
  function makeCanvas(label, draw) {
    const canvas = make("canvas", { role: "img", "aria-label": label });
    new ResizeObserver(() => {
      const side = Math.round(canvas.clientWidth * Math.min(devicePixelRatio, 2));
      if (side === canvas.width || !side) return;
      [canvas.width, canvas.height] = [side, side];
      draw();
    }).observe(canvas);
    return canvas;
  }

  const isEmpty = (pixels) => {
    for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) return false;
    return true;
  };

  /* The members in reading order: the living from best to worst, then the dead, then the exploded,
     each of those with a frame. */
  class Population {
    constructor() {
      this.element = makeCanvas("The population", () => this.draw());
      this.element.classList.add("evolve-population");
      this.context = this.element.getContext("2d");
      this.scratch = make("canvas");
      this.show({ count: 64, side: 32 });
    }

    /* pictures: (count, side, side, 4) straight RGBA; null where nothing has grown yet. Pictures and
       losses stand from best to worst. */
    show({ count, side, pictures = null, losses = [], empty = Infinity }) {
      const area = 4 * side * side;
      const pixels = (k) => pictures?.subarray(k * area, (k + 1) * area);
      const fateOf = (loss, k) => {
        if (isExploded(loss, empty)) return "exploded";
        return isEmpty(pixels(k)) ? "dead" : "";
      };
      const fates = Array.from(losses, fateOf);
      const those = (fate) => [...fates.keys()].filter((k) => fates[k] === fate);
      const [alive, dead, exploded] = ["", "dead", "exploded"].map(those);
      const members = [...alive, ...dead, ...exploded].map((k) => [pixels(k), fates[k]]);
      const faults = { dead: dead.length, exploded: exploded.length };
      Object.assign(this, { count, side, members, faults });
      this.draw();
    }

    draw() {
      const { context, count, scratch } = this;
      const across = Math.ceil(Math.sqrt(count));
      const room = this.element.width / across;
      const gap = Math.max(1, Math.round(room / 16));
      [scratch.width, scratch.height] = [this.side, this.side];
      const style = getComputedStyle(this.element);
      const colour = (name) => style.getPropertyValue(name);
      context.clearRect(0, 0, this.element.width, this.element.height);
      context.imageSmoothingQuality = "high";
      for (let k = 0; k < count; k++) {
        const [x, y] = [k % across, Math.floor(k / across)].map((i) => Math.round(i * room));
        const size = Math.round(room) - gap;
        context.fillStyle = colour("--nca-ground");
        context.fillRect(x, y, size, size);
        const [pixels, fate] = this.members[k] ?? [];
        this.drawMember(pixels, x, y, size);
        context.strokeStyle = colour(fate ? `--evolve-${fate}` : "--nca-line");
        context.lineWidth = fate ? (2 * gap) / 3 : 1;
        context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      }
    }

    drawMember(pixels, x, y, size) {
      const { context, scratch, side } = this;
      if (!pixels) {
        const dot = Math.max(1, Math.round(size / side)); // the seed that all begin with
        context.fillStyle = getComputedStyle(this.element).getPropertyValue("--nca-muted");
        return context.fillRect(x + size / 2 - dot / 2, y + size / 2 - dot / 2, dot, dot);
      }
      scratch.getContext("2d").putImageData(new ImageData(pixels, side), 0, 0);
      context.drawImage(scratch, x, y, size, size);
    }
  }

  /* Whether nothing is left of a rule's life in the end, or no numbers. */
  function isBarren(model) {
    const side = model.size + 2 * model.padding;
    const [state, random] = [NCA.seedState(side, side, model.channels, 1), NCA.makeRandom(1)];
    for (let k = 0; k < model.num_steps; k++) {
      NCA.step(model, state, NCA.fireMask(random, side, side, model.mask));
    }
    const alphas = NCA.plane(state, model.channels - 1);
    return !alphas.some((alpha) => alpha > model.alive_threshold && alpha < Infinity);
  }

  /* The life of one rule, from its seed on, over and over. */
  class Growth {
    constructor() {
      this.element = make("canvas", { role: "img", "aria-label": "The mean, growing" });
      this.element.classList.add("evolve-growth");
      this.counter = make("span"); // the step on show
      this.context = this.element.getContext("2d");
      this.listeners = new Set(); // called after each picture
      this.count = this.frame = this.due = 0;
      this.last = performance.now();
      new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1).isIntersecting;
        this.schedule();
      }).observe(this.element);
      document.addEventListener("visibilitychange", () => this.schedule());
      calm.addEventListener("change", () => this.show(this.model, this.side));
    }

    /* Show another rule: from its next life on, or at once where nothing lives yet. */
    show(model, side) {
      const isNew = !this.state || side !== this.side || !model || !this.model;
      Object.assign(this, { model, side });
      if (isNew || calm.matches) this.begin();
      this.schedule();
    }

    begin() {
      if (!this.side) return;
      const { side, element } = this;
      this.alive = this.model; // the rule of this life
      this.state = NCA.seedState(side, side, this.alive?.channels ?? 4, 1);
      this.random = NCA.makeRandom(1);
      this.count = this.due = 0;
      if (element.width !== side) [element.width, element.height] = [side, side];
      this.image = this.context.createImageData(side, side);
      if (calm.matches && !this.done) this.finish();
      else this.draw();
    }

    /* What has grown in the end. */
    finish() {
      while (this.alive && this.count < this.alive.num_steps) this.advance();
      this.draw();
    }

    /* One whole life from now on, even where motion is not wanted; then `done` is called. */
    live(done) {
      this.done = done;
      this.begin();
      this.schedule();
    }

    advance() {
      const fire = NCA.fireMask(this.random, this.side, this.side, this.alive.mask);
      NCA.step(this.alive, this.state, fire);
      this.count++;
    }

    draw() {
      const { state, context, image } = this;
      paint({ model: this.alive ?? { premultiply: true }, state, context, image }, "colour");
      const last = this.alive?.num_steps;
      const text = last ? `step ${Math.min(this.count, last)} of ${last}` : "one cell";
      if (this.counter.textContent !== text) this.counter.textContent = text;
      for (const listener of this.listeners) listener();
    }

    schedule() {
      const isWanted = this.done || (!calm.matches && this.isVisible);
      const isOn = this.model && isWanted && !document.hidden;
      if (isOn && !this.frame) this.frame = requestAnimationFrame((now) => this.run(now));
    }

    end() {
      const { done } = this;
      this.done = null;
      done?.();
      this.begin();
    }

    run(now) {
      this.frame = 0;
      this.due += Math.min((now - this.last) / FRAME, 2);
      this.last = now;
      for (; this.due >= 1; this.due--) {
        if (!this.alive || this.count >= this.alive.num_steps + REST) this.end();
        else if (this.count >= this.alive.num_steps) this.count++;
        else this.advance();
      }
      this.draw();
      this.schedule();
    }
  }

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const LEFT = 44,
    RIGHT = 10,
    TOP = 44, // of which pictures take the most
    BOTTOM = 18; // room for the axes, in pixels
  const SHOT = 36; // pixels across
  // What stands at the end of each line, and how far below it.
  const LABELS = {
    whitened: ["whitened", 13],
    pgpe: ["PGPE", -12],
    backprop: ["by gradients", 15],
    own: ["this run", 16],
  };
  const LEAST = 50; // rollouts, where the axis begins
  const raised = (power) =>
    power < 6 ? (10 ** power).toLocaleString("en") : `${10 ** (power - 6)} million`;

  /* Thin a line of points to what can be seen: one of those closer together than two pixels. */
  function thin(points) {
    let last = -Infinity;
    return points.filter(([x], i) => {
      const isSeen = x - last >= 2 || i === points.length - 1;
      if (isSeen) last = x;
      return isSeen;
    });
  }

  /* Loss over rollouts, both logarithmic. */
  class Curve {
    constructor() {
      this.plot = draw("svg", { class: "evolve-curve", role: "img", "aria-label": "Loss" });
      const label = "The best of some generations";
      this.strip = make("div", { class: "evolve-shots", role: "img", "aria-label": label });
      this.element = make("div", { class: "evolve-plot" }, this.plot, this.strip);
      this.lines = this.shots = [];
      new ResizeObserver(() => this.draw()).observe(this.plot);
    }

    /* lines: {kind, points: [[rollouts, loss], ...]}; empty: the level of the empty grid; shots:
       {rollouts, canvas}, to stand above. */
    show(lines, empty, shots) {
      Object.assign(this, { lines, empty, shots });
      this.draw();
    }

    draw() {
      const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
      if (!width || !this.empty) return;
      const own = this.lines.find(({ kind }) => kind === "own").points;
      const losses = own.map(([, loss]) => loss).filter(Number.isFinite);
      const right = Math.max(1e5, 1.25 * (own.at(-1)?.[0] ?? 0));
      const [low, high] = [Math.min(this.empty / 30, ...losses) * 0.8, this.empty * 2.2];
      const scale = (value, from, to) => Math.log(value / from) / Math.log(to / from);
      const x = (rollouts) => LEFT + scale(rollouts, LEAST, right) * (width - LEFT - RIGHT);
      const y = (loss) => {
        const share = Math.min(1, Math.max(0, scale(loss, low, high)));
        return height - BOTTOM - share * (height - TOP - BOTTOM);
      };
      const place = (points) =>
        thin(
          points
            .filter(
              ([rollouts, loss]) => rollouts >= LEAST && rollouts <= right && Number.isFinite(loss),
            )
            .map(([rollouts, loss]) => [x(rollouts), y(loss)]),
        )
          .map((point) => point.map((value) => value.toFixed(1)).join())
          .join(" ");
      this.hang(x, width);
      this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const [end, level] = [width - RIGHT, y(this.empty)];
      const label = (kind, text, x, y) => {
        const anchor = x < 2 * LEFT ? "start" : "end";
        return draw("text", { class: `label ${kind}`, x, y, "text-anchor": anchor }, text);
      };
      const name = (kind, points) => {
        const [text, below] = LABELS[kind];
        const [left, top] = points.split(" ").at(-1).split(",").map(Number);
        return label(kind, text, left, Math.min(top + below, height - BOTTOM - 3));
      };
      const placed = this.lines.map(({ kind, points }) => [kind, place(points)]);
      this.plot.replaceChildren(
        ...this.makeAxes(x, y, { width, height, right, low, high }),
        draw("line", { class: "empty", x1: LEFT, x2: end, y1: level, y2: level }),
        label("empty", "empty grid", end, level - 5),
        ...placed.map(([kind, points]) => draw("polyline", { class: kind, points })),
        ...placed.filter(([, points]) => points).map(([kind, points]) => name(kind, points)),
        ...own
          .slice(1)
          .slice(-1)
          .map(([rollouts, loss]) =>
            draw("circle", { class: "own", cx: x(rollouts), cy: y(loss), r: 3.5 }),
          ),
      );
    }

    /* Hang the pictures where they belong; those that would lie on one another stay out. */
    hang(x, width) {
      let edge = 0;
      const seen = this.shots.filter(({ rollouts, canvas }) => {
        const left = Math.min(x(rollouts) - SHOT / 2, width - SHOT);
        if (left < edge) return false;
        edge = left + SHOT + 2;
        canvas.style.left = `${left}px`;
        return true;
      });
      this.strip.replaceChildren(...seen.map(({ canvas }) => canvas));
    }

    makeAxes(x, y, { width, height, right, low, high }) {
      const parts = [];
      const bottom = height - BOTTOM;
      for (let power = 2; 10 ** power <= right; power++) {
        const at = x(10 ** power);
        const anchor = at > width - 40 ? "end" : "middle";
        parts.push(
          draw("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: bottom }),
          draw("text", { x: at, y: bottom + 13, "text-anchor": anchor }, raised(power)),
        );
      }
      for (let power = -6; power < 3; power++) {
        for (const digit of [1, 2, 5]) {
          const loss = digit * 10 ** power;
          if (loss < low || loss > high) continue;
          parts.push(
            draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(loss), y2: y(loss) }),
            draw(
              "text",
              { x: LEFT - 5, y: y(loss) + 4, "text-anchor": "end" },
              `${+loss.toFixed(6)}`,
            ),
          );
        }
      }
      return parts;
    }
  }

  return { Population, Growth, Curve, isBarren, isExploded };
})();
