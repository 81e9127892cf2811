/* The settings of evolution as knobs, under the names of nca_lib/lab/config.py: what each does, and
   where the book explains it. One global, Knobs. */
var Knobs = (() => {
  "use strict";

  const { make } = NCA;
  const [TARGET, RULE, LOSS, BY_HAND, TRAINING] = [
    "01_dataset.html#",
    "02_architecture.html#",
    "03_loss.html#",
    "04_evolution.html#",
    "05_es_training.html#",
  ];

  // Kind of control, by what stands in: `values` a slider, `choices` a list, `limits` a number, none
  // of these a switch. Near ones stand beside the population.
  const KNOBS = {
    std: {
      label: "Noise σ",
      values: [0.001, 0.003, 0.01, 0.02, 0.03, 0.035, 0.05, 0.1, 0.2, 0.5, 1],
      isNear: true,
      says: "How far the variations lie from the mean. Too far, and all of them die or explode.",
      link: BY_HAND + "the-estimator-and-its-mirror-image",
    },
    learning_rate: {
      label: "Learning rate",
      values: [0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 6, 10],
      isNear: true,
      says: "How far the mean moves towards the better ones. Too far, and the loss jumps.",
      link: TRAINING + "how-large-a-step",
    },
    population: {
      label: "Population",
      values: [8, 16, 32, 48, 64, 96, 128, 192, 256],
      isNear: true,
      says: "Variations in a generation. More show the way better, but take longer.",
      link: BY_HAND + "ask-evaluate-tell",
    },
    std_rate: {
      label: "Rate of σ",
      values: [0, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1],
      isNear: true,
      says: "How fast evolution adjusts the σ of each weight. At 0 every σ stays as it is.",
      link: TRAINING + "a-sigma-for-every-weight",
    },
    num_steps: {
      label: "Steps",
      values: [16, 24, 32, 40, 48, 64, 96],
      says: "How long a pattern grows. It spreads by at most one cell a step.",
      link: RULE + "how-fast-news-travels",
    },
    ranks: {
      label: "Ranks",
      says: "Only the order of the members counts, not how far apart their losses are.",
      link: BY_HAND + "only-the-order-counts",
    },
    pairs: {
      label: "Mirrored pairs",
      says: "Every member has a partner with the opposite noise.",
      link: BY_HAND + "the-estimator-and-its-mirror-image",
    },
    shared_luck: {
      label: "Shared luck",
      says: "Chance picks the cells that act: the same in all members, or some are merely lucky.",
      link: BY_HAND + "what-ranks-and-shared-luck-are-worth",
    },
    strategy: {
      label: "Strategy",
      choices: {
        whitened: "Whitened PGPE",
        pgpe: "PGPE",
        open_es: "OpenAI-ES",
      },
      says:
        "OpenAI-ES has one σ for all weights, PGPE learns one for each. Whitened PGPE also makes " +
        "noise weaker where the inputs of a layer are strong, so that all inputs matter alike.",
      link: TRAINING + "noise-that-the-cells-shape",
    },
    seed: {
      label: "Seed",
      limits: Evolution.LIMITS.seed,
      says: "The same seed repeats the same history, on any machine. Another finds another rule.",
      link: BY_HAND + "ask-evaluate-tell",
    },
    size: {
      label: "Target size",
      values: [16, 18, 20, 22, 24, 26, 28, 30, 32],
      text: (v) => `${v} × ${v}`,
      says: "In cells; four empty ones are added on each side. Larger pictures are slower and harder.",
      link: TARGET + "from-many-pixels-to-few-cells",
    },
    channels: {
      label: "Channels",
      values: [4, 6, 8, 10, 12, 16],
      says: "Numbers in each cell: three of colour, one of opacity, and hidden ones for messages.",
      link: RULE + "a-grid-of-cells",
    },
    window: {
      label: "Window",
      values: [1, 2, 4, 8, 12, 16, 24, 32],
      says: "How many of the last steps count for the loss.",
      link: LOSS + "a-window-in-time",
    },
    mask: {
      label: "Fire mask",
      choices: { paired: "In pairs", bernoulli: "By coin" },
      says: "Which half of the cells acts in a step: one of two neighbours, or each by coin toss.",
      link: RULE + "fire",
    },
    hidden: {
      label: "Hidden units",
      values: [8, 16, 24, 32, 48, 64, 96, 128],
      says: "Units in the middle of the network: more can do more, but have more weights.",
      link: RULE + "think",
    },
    step_size: {
      label: "Step size",
      values: [0.1, 0.25, 0.5, 1, 1.5, 2, 3],
      says: "Multiplies every change that a cell makes to itself.",
      link: RULE + "one-whole-step",
    },
  };

  /* A knob and its sentence; `onChange` is given {name: value}. */
  function makeKnob(name, knob, onChange) {
    const id = `evolve-${name}`;
    const change = () => onChange({ [name]: read(name, input) });
    const tell = () => (text.textContent = (knob.text ?? String)(read(name, input)));
    let held = null; // a slider's value before a touch, which may come to scroll the page instead
    const touch = {
      input: () => (held === null ? change() : tell()),
      pointerdown: ({ pointerType }) => (held = pointerType === "touch" ? input.value : null),
      pointerup: () => {
        if (held !== null) change();
        held = null;
      },
      pointercancel: () => {
        if (held !== null) input.value = held;
        held = null;
        tell();
      },
    };
    let input;
    if (knob.values) {
      const max = knob.values.length - 1;
      input = make("input", { type: "range", min: 0, max, step: 1, id, ...touch });
    } else if (knob.choices) {
      const options = Object.entries(knob.choices);
      input = make("select", { id, change });
      input.append(...options.map(([value, text]) => make("option", { value }, text)));
    } else if (knob.limits) {
      const [min, max] = knob.limits;
      input = make("input", { type: "number", min, max, step: 1, id, change });
    } else input = make("input", { type: "checkbox", id, change });
    const text = make("output", { for: id, "aria-hidden": "true" });
    const away = { target: "_blank", rel: "noopener" }; // the run stays here
    const label = `More about ${knob.label}`;
    const more = make("a", { href: knob.link, "aria-label": label, ...away }, "More");
    const says = make("p", { id: `${id}-says` }, `${knob.says} `, more);
    input.setAttribute("aria-describedby", says.id);
    const head = make("div", {}, make("label", { for: id }, knob.label), input, text);
    return { input, text, element: make("div", { class: "evolve-knob" }, head, says) };
  }

  function read(name, input) {
    const { values, choices, limits } = KNOBS[name];
    if (values) return values[+input.value];
    if (limits) return Math.min(limits[1], Math.max(limits[0], Math.round(+input.value) || 0));
    return choices ? input.value : input.checked;
  }

  class Panel {
    /* isLive tells of a name whether it may change while evolution runs. */
    constructor(isLive, onChange) {
      this.knobs = new Map();
      const groups = { near: [], live: [], anew: [] };
      for (const [name, knob] of Object.entries(KNOBS)) {
        const made = makeKnob(name, knob, onChange);
        this.knobs.set(name, made);
        const place = knob.isNear ? "near" : isLive(name) ? "live" : "anew";
        groups[place].push(made.element);
      }
      const group = (legend, elements) =>
        make(
          "fieldset",
          {},
          make("legend", {}, legend),
          make("div", { class: "evolve-knobs" }, ...elements),
        );
      this.near = group("Can change while it runs", groups.near);
      this.others = [
        group("Can change while it runs, too", groups.live),
        group("Take effect with Start anew", groups.anew),
      ];
    }

    show(settings) {
      for (const [name, { input, text }] of this.knobs) {
        const { values, choices, limits, text: say = String } = KNOBS[name];
        const value = settings[name];
        if (values) {
          const distance = values.map((other) =>
            Math.abs(Math.log((other + 1e-9) / (value + 1e-9))),
          );
          input.value = distance.indexOf(Math.min(...distance));
          text.textContent = say(value);
          input.setAttribute("aria-valuetext", text.textContent);
        } else if (choices || limits) input.value = value;
        else input.checked = value;
      }
    }
  }

  return { Panel };
})();
