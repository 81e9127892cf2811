/* Patterns in files and links: NAME.nca.json and #p=..., as nca_lib/lab/record.py has them.

   A record is what NCA.decode of nca.js reads, with the steps that were judged and the picture that
   was aimed at beside the weights. A link has the weights alone, as float16, and the sizes. What is
   foreign or damaged is refused by an Error in words; nothing else escapes. */
(() => {
  "use strict";

  const LONGEST = 1e6; // characters of a file or a link
  const SIZES = ["channels", "hidden", "size", "padding", "num_steps"];
  const USUAL = { window: 8, mask: "paired", step_size: 1, alive_threshold: 0.1 }; // if not told
  const COMMON = {
    format: 2, rule: "growing", border: "zero", fire_rate: 0.5, age: 0, pool: 0,
    premultiply: true, channel_order: "hidden, red, green, blue, alpha",
  };

  function check(fine, what) {
    if (!fine) throw new Error(`This pattern cannot be used: ${what}.`);
  }

  /* Bytes as text, and back; nca.js has checked the text, but for that of a target. */
  function toBase64(bytes) {
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  }

  function fromBase64(text) {
    try {
      return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    } catch {
      return check(false, "it is not base64");
    }
  }

  /* The nearest half-precision number, of two as near the even one, as 16 bits. */
  function toHalf(value) {
    const size = Math.abs(value);
    check(size < 65520, "a weight is too large for a link");
    const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
    let [exponent, unit] = [0, 2 ** -24]; // of the last bit
    while (size >= 2048 * unit) [exponent, unit] = [exponent + 1, 2 * unit];
    const bits = size / unit; // 1024 to 2047, or fewer for the smallest
    const near = Math.round(bits) - (bits % 1 === 0.5 && Math.floor(bits) % 2 === 0 ? 1 : 0);
    return sign | (1024 * exponent + near);
  }

  /* A record of a model, or of the settings of Evolution with `weights`, Float32Array in the order
     of nca.js. `told` replaces what they tell: name (lower-case letters, digits, hyphens), title,
     emoji, target (RGBA in 0 to 1, or null), rollouts, loss. */
  function encode(model, told = {}, dtype = "float32") {
    told = { ...model, ...told };
    const { weights, target, rollouts, loss } = told;
    check(weights.every(Number.isFinite), "a weight is not a finite number");
    const width = dtype === "float32" ? 4 : 2;
    const view = new DataView(new ArrayBuffer(width * weights.length));
    weights.forEach((weight, i) => {
      if (width === 4) view.setFloat32(4 * i, weight, true);
      else view.setUint16(2 * i, toHalf(weight), true);
    });
    const bytes = new Uint8Array(view.buffer);
    const record = { ...COMMON, name: told.name || "own", title: told.title || "Your own" };
    const names = ["emoji", ...SIZES, ...Object.keys(USUAL)];
    for (const name of names) record[name] = told[name];
    Object.assign(record, { dtype, crc32: NCA.checksum(bytes), weights: toBase64(bytes) });
    if (target) record.target = toBase64(Uint8ClampedArray.from(target, (value) => 255 * value));
    if (Number.isInteger(rollouts)) record.rollouts = rollouts;
    if (Number.isFinite(loss)) record.loss = loss;
    return record;
  }

  /* A record becomes a model: NCA.decode, and what else a page wants to rely on. */
  function open(record) {
    const model = NCA.decode(record);
    const isCount = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;
    check(isCount(model.size, 1, 512), "size must be a whole number from 1 to 512");
    check(isCount(model.padding, 0, 256), "padding must be a whole number from 0 to 256");
    model.window ??= Math.min(USUAL.window, model.num_steps);
    check(isCount(model.window, 1, model.num_steps), "window must be from 1 to the steps");
    const { target = null } = model;
    const bytes = 4 * (model.size + 2 * model.padding) ** 2;
    model.target = null;
    if (target === null) return model;
    check(typeof target === "string" && target.length < 2 * bytes, "its target has another size");
    const values = fromBase64(target);
    check(values.length === bytes, "its target has another size");
    model.target = Float32Array.from(values, (value) => value / 255);
    return model;
  }

  /* The text of a file becomes a record that `open` takes. */
  function readRecord(text) {
    check(typeof text === "string" && text.length <= LONGEST, "the file is too large");
    let record;
    try {
      record = JSON.parse(text);
    } catch {
      check(false, "the file is not JSON");
    }
    open(record);
    return record;
  }

  /* What stands behind "#": the weights, the sizes, and whatever is not as usual. */
  function toLink(model) {
    const record = encode(model, {}, "float16");
    const data = record.weights.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    const parts = [`p=${data}`, ...SIZES.map((name) => `${name}=${record[name]}`)];
    for (const name of Object.keys(USUAL)) {
      if (record[name] !== USUAL[name]) parts.push(`${name}=${record[name]}`);
    }
    for (const name of ["emoji", "title"]) {
      if (record[name]) parts.push(`${name}=${encodeURIComponent(record[name])}`);
    }
    return parts.join("&");
  }

  /* The pattern in a link; null where there is none. */
  function fromLink(hash) {
    const text = String(hash).replace(/^#/, "");
    if (!/(^|&)p=/.test(text)) return null;
    check(text.length <= LONGEST, "the link is too long");
    const told = { ...COMMON, ...USUAL, window: undefined, emoji: "", title: "A pattern" };
    const names = ["p", "emoji", "title", ...SIZES, ...Object.keys(USUAL)];
    for (const part of text.split("&")) {
      const [name, value = ""] = part.split("=", 2);
      if (!names.includes(name)) continue;
      try {
        told[name] = decodeURIComponent(value);
      } catch {
        check(false, `the link is damaged at "${name}"`);
      }
    }
    for (const name of [...SIZES, "window", "step_size", "alive_threshold"]) {
      if (told[name] !== undefined) told[name] = told[name] === "" ? NaN : Number(told[name]);
    }
    check(/^[\w-]+$/.test(told.p) && told.p.length % 4 !== 1, "the link's weights are damaged");
    const weights = told.p.replaceAll("-", "+").replaceAll("_", "/");
    const padded = weights.padEnd(4 * Math.ceil(weights.length / 4), "=");
    const crc32 = NCA.checksum(fromBase64(padded)); // a link has none
    return open({ ...told, name: "link", dtype: "float16", weights: padded, crc32 });
  }

  /* -- What pages do with them ------------------------------------------------------------------ */

  /* A model, of a file that a reader has chosen. */
  async function openFile(file) {
    if (file.size > 2e6) throw new Error("This file is too large to be one of weights.");
    return open(readRecord(await file.text()));
  }

  /* Let the browser save a blob. */
  function save(blob, name) {
    const href = URL.createObjectURL(blob);
    NCA.make("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  }

  const saveRecord = (record, name) =>
    save(new Blob([JSON.stringify(record)], { type: "application/json" }), `${name}.nca.json`);

  /* Copy an address; what to tell the reader. */
  async function copyLink(href) {
    try {
      await navigator.clipboard.writeText(href);
      return "Link copied.";
    } catch {
      return "This browser does not copy it: use the menu of the link.";
    }
  }

  Object.assign(NCA, { encode, open, readRecord, toLink, fromLink });
  Object.assign(NCA, { openFile, save, saveRecord, copyLink });
})();
