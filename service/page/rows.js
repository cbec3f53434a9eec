// Where a row comes from: an example, a text, a file, numbers. One input for each kind of row.

import { dropZone, exampleButtons, nested } from "./choices.js";
import { element } from "./dom.js";
import { isPicture, pictureInput } from "./picture.js";

const TYPES = { "/9j": "jpeg", iVB: "png", R0l: "gif", Ukl: "webp" };

/**
 * Fills `place` with the input for the model's kind of row.
 *
 * `send` is called when there is a row to be answered at once. Returns `filled()`, and `row()`,
 * the row as /predict takes it; it fails with words for the user.
 */
export function openInput(facts, examples, place, send) {
  const { kind, shape } = facts.input;
  if (kind === "text") return textInput(facts, examples, place, send);
  if (kind === "image") return imageInput(facts, examples, place, send);
  if (isPicture(shape)) return pictureInput(shape, examples, place, send);
  return numbersInput(shape, examples, place, send);
}

function textInput(facts, examples, place, send) {
  const field = element("textarea", { id: "text", rows: 4, placeholder: "Write something…" });
  field.addEventListener("keydown", (press) => {
    if (press.key === "Enter" && (press.ctrlKey || press.metaKey)) send();
  });
  place.append(
    element("label", { for: "text" }, `Text, up to ${facts.input.max_tokens} tokens`),
    field,
    exampleButtons(examples, "texts", (example) => [example.row], (example) => {
      field.value = example.row;
      send();
    }) ?? "",
  );
  return { filled: () => field.value !== "", row: () => field.value };
}

function numbersInput(shape, examples, place, send) {
  const known = shape.length > 0 && shape.every((size) => size !== null);
  const wanted = known ? shape.reduce((a, b) => a * b, 1) : null;
  const field = element("textarea", { id: "numbers", rows: 5, spellcheck: "false" });
  field.placeholder = "0.5, 1, 2.25, …";
  const expected = wanted === null ? "Numbers" : `${wanted} numbers`;
  place.append(
    element("label", { for: "numbers" }, `${expected}, separated by commas or spaces`),
    field,
    exampleButtons(examples, "texts", (example) => [brief(example)], (example) => {
      field.value = example.row.flat(Infinity).join(", ");
      send();
    }) ?? "",
  );
  function row() {
    const values = field.value.split(/[\s,;]+/).filter((word) => word !== "").map(number);
    if (wanted !== null && values.length !== wanted) {
      throw new Error(`Found ${values.length} numbers, expected ${wanted}.`);
    }
    return known ? nested(values, shape) : values;
  }
  return { filled: () => field.value.trim() !== "", row };
}

function number(word) {
  const value = Number(word);
  if (!Number.isFinite(value)) {
    throw new Error(`Found “${word.slice(0, 20)}”, expected a number.`);
  }
  return value;
}

function brief(example) {
  return example.labels.length ? example.labels.join(", ") : "no label";
}

function imageInput(facts, examples, place, send) {
  const limit = Math.floor(facts.limits.body_bytes * 0.74); // base64 takes 4 bytes for 3
  const view = element("img", { class: "view", alt: "The chosen image", hidden: true });
  let row = noImage;
  function show(address, content) {
    if (view.src.startsWith("blob:")) URL.revokeObjectURL(view.src);
    view.src = address;
    view.hidden = false;
    row = content;
    send();
  }
  function take(file) {
    show(URL.createObjectURL(file), () => {
      if (file.size > limit) throw new Error(tooLarge(file, limit));
      return base64(file);
    });
  }
  const thumbnail = (example) => [element("img", { src: dataAddress(example.row), alt: "" })];
  const pick = (example) => show(dataAddress(example.row), () => example.row);
  place.append(
    exampleButtons(examples, "pictures", thumbnail, pick) ?? "",
    dropZone("Drop or paste an image, or choose a file", take),
    view,
  );
  return { filled: () => row !== noImage, row: () => row() };
}

function noImage() {
  throw new Error("No image yet: drop one, or pick an example.");
}

function tooLarge(file, limit) {
  const mega = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `The file has ${mega(file.size)}, expected at most ${mega(limit)}: shrink the image.`;
}

function dataAddress(content) {
  return `data:image/${TYPES[content.slice(0, 3)] ?? "bmp"};base64,${content}`;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}
