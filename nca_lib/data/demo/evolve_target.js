/* Pictures to targets, as nca_lib/target.py does it: of any size to few cells a side, colour weighed
   by alpha, empty cells around. Pictures are {width, height, data}, straight RGBA in bytes. Nothing
   leaves the page. One global, Target. */
var Target = (() => {
  "use strict";

  const SIDE = 128; // of the bundled emoji, and of what a font draws
  const MAX_FILE = 100e6; // bytes
  const MAX_SIDE = 512; // a picture is brought to, before it is resampled in this thread
  const ONE = 2 ** 22; // weights are whole numbers of this fraction, as Pillow's are
  const INK = "#0072b2"; // of letters; emoji have colours of their own

  const toShare = (byte) => Math.fround(byte / 255);
  const clamp = (value) => Math.min(255, Math.max(0, value));

  function lanczos(x) {
    if (x === 0) return 1;
    const angle = Math.PI * x;
    return Math.abs(x) < 3 ? (3 * Math.sin(angle) * Math.sin(angle / 3)) / angle ** 2 : 0;
  }

  /* For each new pixel the first old one that counts, and the weights from there on. */
  function kernels(from, to) {
    const stretch = Math.max(1, from / to);
    return Array.from({ length: to }, (_, i) => {
      const centre = ((i + 0.5) * from) / to;
      const first = Math.max(0, Math.floor(centre - 3 * stretch + 0.5));
      const end = Math.min(from, Math.floor(centre + 3 * stretch + 0.5));
      const weigh = (_, k) => lanczos((first + k - centre + 0.5) / stretch);
      const weights = Array.from({ length: end - first }, weigh);
      const sum = weights.reduce((a, b) => a + b, 0);
      return [first, weights.map((weight) => Math.round((weight / sum) * ONE))];
    });
  }

  /* Resample the rows of (height, width, 4), and turn rows to columns: twice is both, upright. */
  function resampleRows(data, width, height, to) {
    const result = new Uint8Array(4 * to * height);
    kernels(width, to).forEach(([first, weights], x) => {
      for (let y = 0; y < height; y++) {
        for (let c = 0; c < 4; c++) {
          let sum = ONE / 2;
          let at = 4 * (y * width + first) + c;
          for (let k = 0; k < weights.length; k++, at += 4) sum += weights[k] * data[at];
          result[4 * (x * height + y) + c] = clamp(Math.floor(sum / ONE));
        }
      }
    });
    return result;
  }

  /* Scale a picture to fit a square of `size` cells, centred, with empty cells around it: Float32
     premultiplied RGBA in [0, 1], as Pillow's Lanczos and `load_image` make it. */
  function rasterise({ width, height, data }, size, padding) {
    const scale = size / Math.max(width, height);
    const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    const isColour = (i) => i % 4 < 3;
    const opacityAt = (bytes, i) => bytes[i - (i % 4) + 3];
    let bytes = Uint8Array.from(data, (value, i) =>
      isColour(i) ? Math.round((value * opacityAt(data, i)) / 255) : value,
    );
    bytes = resampleRows(resampleRows(bytes, width, height, across), height, across, down);
    const target = new Float32Array(4 * (size + 2 * padding) ** 2);
    const [top, left] = [down, across].map((side) => padding + Math.floor((size - side) / 2));
    for (let y = 0; y < down; y++) {
      for (let x = 0; x < across; x++) {
        const end = 4 * (y * across + x) + 4;
        const opacity = bytes[end - 1];
        const straight = (c) => clamp(Math.floor((255 * bytes[end - 4 + c]) / (opacity || 1)));
        const [alpha, ...colour] = [opacity, straight(0), straight(1), straight(2)].map(toShare);
        target.set(
          [...colour.map((tone) => tone * alpha), alpha],
          4 * ((y + top) * (size + 2 * padding) + x + left),
        );
      }
    }
    return target;
  }

  /* The way back: a target without the cells around it, as a picture of straight colours. */
  function toPicture(target, size, padding) {
    const data = new Uint8ClampedArray(4 * size * size);
    for (let k = 0; k < size * size; k++) {
      const [row, column] = [Math.floor(k / size) + padding, (k % size) + padding];
      const start = 4 * (row * (size + 2 * padding) + column);
      const [red, green, blue, alpha] = target.subarray(start, start + 4);
      const straight = [red, green, blue].map((colour) => (255 * colour) / (alpha || 1));
      data.set([...straight, 255 * alpha], 4 * k);
    }
    return { width: size, height: size, data };
  }

  function draw(width, height, paint) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    paint(context);
    return context.getImageData(0, 0, width, height);
  }

  /* The bundled emoji: one opaque sheet, which every browser decodes to the same numbers. In a row
     of six are their colours, and their alphas in the row below it. */
  async function readSheet(address, count) {
    const image = new Image();
    image.src = address;
    await image.decode();
    return Array.from({ length: count }, (_, i) => {
      const [x, y] = [(i % 6) * SIDE, Math.floor(i / 6) * 2 * SIDE];
      const cut = (y) => draw(SIDE, SIDE, (context) => context.drawImage(image, -x, -y));
      const [picture, alphas] = [cut(y), cut(y + SIDE)];
      for (let k = 3; k < picture.data.length; k += 4) picture.data[k] = alphas.data[k - 1];
      return picture;
    });
  }

  const letters = (text) => (context) => {
    context.fillStyle = INK;
    context.font = "100px sans-serif";
    const box = context.measureText(text);
    const [wide, high] = [
      box.actualBoundingBoxLeft + box.actualBoundingBoxRight,
      box.actualBoundingBoxAscent + box.actualBoundingBoxDescent,
    ];
    const scale = (SIDE - 4) / Math.max(wide, high, 1);
    context.translate(SIDE / 2, SIDE / 2);
    context.scale(scale, scale);
    const [x, y] = [
      (box.actualBoundingBoxLeft - box.actualBoundingBoxRight) / 2,
      (box.actualBoundingBoxAscent - box.actualBoundingBoxDescent) / 2,
    ];
    context.fillText(text, x, y);
  };

  /* The first character that a reader has typed, as people count them: flags and families too. */
  function firstCharacter(text) {
    const cut = window.Intl?.Segmenter && new Intl.Segmenter().segment(text.trim());
    return cut ? ([...cut][0]?.segment ?? "") : ([...text.trim()][0] ?? "");
  }

  /* What the reader's own fonts make of a character. An Error if they have no picture of it. */
  function type(text) {
    const picture = draw(SIDE, SIDE, letters(text));
    const missing = draw(SIDE, SIDE, letters("\u{10fffe}")).data; // of which no font has a picture
    const isBlank = picture.data.every((value, i) => i % 4 < 3 || value === 0);
    if (isBlank || picture.data.every((value, i) => value === missing[i])) {
      throw new Error(`The fonts of this device have no picture of “${text}”.`);
    }
    return picture;
  }

  /* Decode an image file of the reader's, here in the page. */
  async function open(file) {
    if (file.size > MAX_FILE) throw new Error("This file has more than 100 MB.");
    const image = await createImageBitmap(file).catch(() => {
      throw new Error("This file is no picture that your browser can read.");
    });
    const scale = Math.min(1, MAX_SIDE / Math.max(image.width, image.height));
    const [width, height] = [image.width, image.height].map((s) =>
      Math.max(1, Math.round(s * scale)),
    );
    return draw(width, height, (context) => {
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, width, height);
    });
  }

  return { rasterise, toPicture, readSheet, firstCharacter, type, open };
})();
