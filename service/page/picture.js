// Rows of numbers that are a picture, (1|3, H, W): shown, drawn with a pen, or scaled from a file.

import { dropZone, exampleButtons, nested } from "./choices.js";
import { element } from "./dom.js";

const SIDE = 320; // pixels of the larger side of the pad

/** Whether a row's shape is that of a picture of known size. */
export function isPicture(shape) {
  return shape.length === 3 && (shape[0] === 1 || shape[0] === 3) && shape[1] >= 4 && shape[2] >= 4;
}

/** As `openInput`. What is on the pad is what is sent. */
export function pictureInput(shape, examples, place, send) {
  const [channels, height, width] = shape;
  const range = rangeOf(examples);
  const zoom = Math.max(1, Math.floor(SIDE / Math.max(height, width)));
  const label = "The row as a picture";
  const pad = element("canvas", { class: "pad", role: "img", "aria-label": label });
  Object.assign(pad, { width: width * zoom, height: height * zoom });
  const paper = pad.getContext("2d", { willReadFrequently: true });
  const onPad = () => read(pad, shape, range);
  let row = nothing;

  function clear() {
    paper.fillStyle = "black";
    paper.fillRect(0, 0, pad.width, pad.height);
    row = nothing;
  }
  function show(values) {
    paper.imageSmoothingEnabled = false;
    paper.drawImage(drawn(values, shape, range), 0, 0, pad.width, pad.height);
    row = () => values;
    send();
  }
  async function take(file) {
    try {
      show(read(await scaled(file, height, width), shape, range));
    } catch (error) {
      clear();
      row = () => {
        throw error;
      };
      send();
    }
  }
  function turnOver() {
    if (row === nothing) return;
    invert(pad, paper);
    row = onPad;
    send();
  }

  clear();
  if (channels === 1) pen(pad, paper, zoom, () => (row = onPad), send);
  const hint = channels === 1 ? "Pick an example, draw here, or" : "Pick an example, or";
  const size = `${width}\u00a0×\u00a0${height}`;
  const thumbnail = (example) => [drawn(example.row, shape, range)];
  const tools = [
    element("p", { class: "soft" }, hint),
    dropZone(`Drop, paste or choose an image: scaled to ${size}`, take),
    tool("Invert", turnOver),
    tool("Clear", clear),
  ];
  place.append(
    exampleButtons(examples, "pictures", thumbnail, (example) => show(example.row)) ?? "",
    element("div", { class: "easel" }, pad, element("div", { class: "tools" }, ...tools)),
  );
  return { filled: () => row !== nothing, row: () => row() };
}

function nothing() {
  throw new Error("No picture yet: drop one, draw one, or pick an example.");
}

function tool(name, act) {
  const button = element("button", { type: "button" }, name);
  button.onclick = act;
  return button;
}

/** The values of black and white: those of the examples, whole ranges where they are usual. */
function rangeOf(examples) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of examples.flatMap((example) => example.row.flat(2))) {
    [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  if (!(high > low) || (low >= 0 && high <= 1)) return { low: 0, high: 1 };
  return low >= 0 && high <= 255 ? { low: 0, high: 255 } : { low, high };
}

/** A canvas of the row's own size. */
function drawn(row, [channels, height, width], { low, high }) {
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    const [top, left] = [Math.floor(pixel / width), pixel % width];
    for (let colour = 0; colour < 3; colour++) {
      const value = row[channels === 3 ? colour : 0][top][left];
      image.data[4 * pixel + colour] = Math.round(((value - low) / (high - low)) * 255);
    }
    image.data[4 * pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** What is on a canvas, as a row. */
function read(canvas, [channels, height, width], { low, high }) {
  const small = element("canvas", { width, height }).getContext("2d");
  small.imageSmoothingQuality = "high";
  small.drawImage(canvas, 0, 0, width, height);
  const { data } = small.getImageData(0, 0, width, height);
  const values = [];
  for (let channel = 0; channel < channels; channel++) {
    for (let at = 0; at < data.length; at += 4) {
      const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      const value = channels === 3 ? data[at + channel] : grey;
      values.push(low + (value / 255) * (high - low));
    }
  }
  return nested(values, [channels, height, width]);
}

/** An image file on a canvas of the row's size, whole, black where it is too narrow. */
async function scaled(file, height, width) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error("The file is no image that this browser can read.");
  }
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const fit = Math.min(width / image.width, height / image.height);
  const [w, h] = [image.width * fit, image.height * fit];
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return canvas;
}

function invert(pad, paper) {
  const image = paper.getImageData(0, 0, pad.width, pad.height);
  for (let at = 0; at < image.data.length; at++) {
    if (at % 4 < 3) image.data[at] = 255 - image.data[at];
  }
  paper.putImageData(image, 0, 0);
}

/** Lets a pointer draw white lines; `done` is called when it is lifted. */
function pen(pad, paper, zoom, changed, done) {
  let last = null;
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    const scale = pad.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const line = (to) => {
    Object.assign(paper, { strokeStyle: "white", lineWidth: 1.8 * zoom, lineCap: "round" });
    paper.beginPath();
    paper.moveTo(...last);
    paper.lineTo(...to);
    paper.stroke();
    last = to;
  };
  pad.classList.add("pen");
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    changed();
    line(last);
  });
  pad.addEventListener("pointermove", (event) => last && line(at(event)));
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, () => {
      if (last) done();
      last = null;
    });
  }
}
