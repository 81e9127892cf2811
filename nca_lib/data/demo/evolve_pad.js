/* A drawing pad of a few cells and a few colours, in a dialog. One global, Pad. */
var Pad = (() => {
  "use strict";

  const { make, button } = NCA;
  const COLOURS = {
    Black: "#1b1b1b",
    White: "#ffffff",
    Red: "#d62839",
    Orange: "#f28e2b",
    Yellow: "#f4d03f",
    Green: "#2e9e4f",
    Blue: "#0072b2",
    Purple: "#7b3fa0",
    Brown: "#8a5a2b",
  };
  const ERASER = "Eraser";
  const HELP = "Drawing pad. Arrow keys move a cursor, Enter or the space bar paints.";

  class DrawingPad {
    /* onDone is given {width, height, data}, straight RGBA in bytes. */
    constructor(onDone) {
      this.onDone = onDone;
      this.cursor = { row: 0, column: 0 };
      this.canvas = make("canvas", {
        tabindex: "0",
        role: "application",
        "aria-label": HELP,
        keydown: (event) => this.handleKey(event),
        pointerdown: (event) => this.press(event),
        pointermove: (event) => this.pressed && this.lead(event),
        pointerup: () => (this.pressed = null),
        pointercancel: () => (this.pressed = null),
      });
      this.context = this.canvas.getContext("2d", { willReadFrequently: true });
      this.mark = make("span", { class: "nca-cursor" });
      const colours = [...Object.keys(COLOURS), ERASER].map((name, i) => {
        const input = make("input", { type: "radio", name: "evolve-colour", value: name });
        input.checked = i === 5;
        const swatch = make("span", { class: "evolve-swatch", "aria-hidden": "true" });
        if (name === ERASER) swatch.classList.add("is-eraser");
        else swatch.style.background = COLOURS[name];
        return make(
          "label",
          { title: name },
          input,
          swatch,
          make("span", { class: "evolve-hidden" }, name),
        );
      });
      const wide = make("input", { type: "checkbox" });
      wide.checked = true;
      this.wide = wide;
      this.form = make(
        "form",
        { method: "dialog" },
        make("h2", {}, "Draw a target"),
        make("div", { class: "nca-frame" }, this.canvas, this.mark),
        make("fieldset", { class: "evolve-colours" }, make("legend", {}, "Colour"), ...colours),
        make(
          "div",
          { class: "nca-row" },
          make("label", {}, wide, " Wide brush"),
          button("Clear", () => this.clear()),
          button("Cancel", () => this.element.close()),
          button("Use this drawing", () => this.finish()),
        ),
      );
      this.element = make(
        "dialog",
        { class: "evolve-dialog", "aria-label": "Draw a target" },
        this.form,
      );
    }

    open(size) {
      if (this.canvas.width !== size) {
        [this.canvas.width, this.canvas.height] = [size, size];
        this.cursor = { row: size >> 1, column: size >> 1 };
      }
      this.placeMark();
      this.element.showModal();
    }

    clear() {
      this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    }

    finish() {
      const { width, height } = this.canvas;
      this.element.close();
      this.onDone(this.context.getImageData(0, 0, width, height));
    }

    locate(event) {
      const { left, top, width, height } = this.canvas.getBoundingClientRect();
      const cell = (share) => Math.floor(share * this.canvas.width);
      return {
        row: cell((event.clientY - top) / height),
        column: cell((event.clientX - left) / width),
      };
    }

    press(event) {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.pressed = this.locate(event);
      this.paint(this.pressed);
    }

    lead(event) {
      const [from, to] = [this.pressed, this.locate(event)];
      const parts = Math.max(Math.abs(to.row - from.row), Math.abs(to.column - from.column), 1);
      for (let i = 1; i <= parts; i++) {
        const along = (name) => Math.round(from[name] + ((to[name] - from[name]) * i) / parts);
        this.paint({ row: along("row"), column: along("column") });
      }
      this.pressed = to;
    }

    paint({ row, column }) {
      const colour = COLOURS[this.form.elements["evolve-colour"].value];
      const reach = this.wide.checked ? 1 : 0;
      const place = [column - reach, row - reach, 2 * reach + 1, 2 * reach + 1];
      this.context.clearRect(...place);
      if (!colour) return;
      this.context.fillStyle = colour;
      this.context.fillRect(...place);
    }

    handleKey(event) {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const isUse = event.key === "Enter" || event.key === " ";
      if ((!isUse && !moves[event.key]) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const [down, right] = moves[event.key] ?? [0, 0];
      const within = (value) => Math.min(this.canvas.width - 1, Math.max(0, value));
      this.cursor.row = within(this.cursor.row + down);
      this.cursor.column = within(this.cursor.column + right);
      if (isUse) this.paint(this.cursor);
      this.placeMark();
    }

    placeMark() {
      const share = (value) => `${(100 * (value + 0.5)) / this.canvas.width}%`;
      this.mark.style.inset = `${share(this.cursor.row)} auto auto ${share(this.cursor.column)}`;
    }
  }

  return { DrawingPad };
})();
