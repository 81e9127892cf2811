/* Cells of logic gates in JavaScript: what nca_lib/lab/gates.py says, and a canvas to watch them.

   A state is a list of C planes, Uint8Arrays of height * width bits. A circuit is {inputs, gates,
   outputs} as in a file of nca_lib/data/circuits. One global, GateCells; no dependency. */
var GateCells = (() => {
  "use strict";

  /* The plane as each cell sees its neighbour dy rows below and dx columns to the right. */
  function shifted(plane, height, width, dy, dx, wrap) {
    const seen = new Uint8Array(plane.length);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let [row, column] = [y + dy, x + dx];
        if (wrap) [row, column] = [(row + height) % height, (column + width) % width];
        else if (row < 0 || column < 0 || row >= height || column >= width) continue;
        seen[y * width + x] = plane[row * width + column];
      }
    }
    return seen;
  }

  /* The state after one step; beyond the border everything is zero, or, wrapped, the other side. */
  function step(circuit, state, height, width, wrap) {
    const wires = [];
    for (const plane of state) {
      for (let k = 0; k < 9; k++) {
        wires.push(shifted(plane, height, width, Math.floor(k / 3) - 1, (k % 3) - 1, wrap));
      }
    }
    for (const [table, first, second] of circuit.gates) {
      const [a, b] = [wires[first], wires[second]];
      wires.push(a.map((bit, i) => (table >> (2 * bit + b[i])) & 1));
    }
    return circuit.outputs.map((wire) => wires[wire]);
  }

  /* Put a canvas into an element and let the cells live.

     `options` has circuit, height, width, wrap, start (one text of 0 and 1 for each bit of a cell),
     colours (CSS, by the number that a cell's first bits spell), seconds a step, and `life`, after
     how many steps it begins anew: 0 for never. It can have `then`, a circuit for one bit, and
     `after`, the number of steps before that takes over with a cell's first bit; and `fade`, how
     far what has no bit set fades in a step, if not at once. A click or a touch makes the bits
     around random. */
  function mount(element, options) {
    const { height, width, wrap, colours, seconds, life, then, after, fade } = options;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", options.alt);
    element.prepend(canvas);
    const context = canvas.getContext("2d");
    const begin = () => options.start.map((bits) => Uint8Array.from(bits, Number));
    let [state, age, last, visible] = [begin(), 0, 0, true];

    function advanced() {
      if (then && age > after) return step(then, state.slice(0, 1), height, width, wrap);
      return step(options.circuit, state, height, width, wrap);
    }

    function draw() {
      for (let i = 0; i < height * width; i++) {
        const number = state.reduce((sum, plane, bit) => sum + (plane[i] << bit), 0);
        context.globalAlpha = number || !age ? 1 : fade || 1;
        context.fillStyle = colours[number % colours.length];
        context.fillRect(i % width, Math.floor(i / width), 1, 1);
      }
    }

    function advance(now) {
      if (!canvas.isConnected) return;
      requestAnimationFrame(advance);
      const wait = life && age === life ? 12 * seconds : seconds; // a moment to look at the end
      if (!visible || now - last < 1000 * wait) return;
      last = now;
      age += 1;
      if (life && age > life) [state, age] = [begin(), 0];
      else state = advanced();
      draw();
    }

    canvas.addEventListener("pointerdown", (event) => {
      const scale = width / canvas.clientWidth;
      const [x, y] = [Math.floor(event.offsetX * scale), Math.floor(event.offsetY * scale)];
      for (let i = 0; i < height * width; i++) {
        if (Math.hypot((i % width) - x, Math.floor(i / width) - y) > width / 8) continue;
        for (const plane of state) plane[i] = Math.random() < 0.5;
      }
      draw();
    });
    new IntersectionObserver(([entry]) => (visible = entry.isIntersecting)).observe(canvas);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (draw(); calm && age < (after || 20); draw()) [age, state] = [age + 1, advanced()];
    if (!calm) requestAnimationFrame(advance);
  }

  return { step, mount };
})();
