// What inputs share: buttons for the bundle's examples, a place for image files, nested lists.

import { element } from "./dom.js";

const IMAGES = "image/jpeg,image/png,image/webp,image/bmp,image/gif";

/** Buttons with the bundle's examples; `content` makes what is in one. */
export function exampleButtons(examples, style, content, pick) {
  if (!examples.length) return null;
  const buttons = examples.map((example, place) => {
    const truth = example.labels.length ? example.labels.join(", ") : "no label";
    const said = `Example ${place + 1}, labelled ${truth}`;
    const title = `labelled ${truth}`;
    const button = element("button", { type: "button", title, "aria-label": said });
    button.append(...content(example));
    button.onclick = () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      pick(example);
    };
    return button;
  });
  const names = { class: `examples ${style}`, role: "group", "aria-label": "Examples" };
  return element("div", names, ...buttons);
}

/** A place to drop, paste or choose an image file. */
export function dropZone(text, take) {
  const file = element("input", { type: "file", accept: IMAGES, class: "unseen" });
  const zone = element("label", { class: "drop" }, file, element("span", {}, text));
  file.onchange = () => file.files[0] && take(file.files[0]);
  for (const event of ["dragenter", "dragover"]) {
    zone.addEventListener(event, (drag) => {
      drag.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (drop) => {
    drop.preventDefault();
    zone.classList.remove("over");
    if (drop.dataTransfer.files[0]) take(drop.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (paste) => {
    if (paste.clipboardData.files[0]) take(paste.clipboardData.files[0]);
  });
  return zone;
}

/** Numbers one after the other, as nested lists of a shape. */
export function nested(values, shape) {
  if (shape.length === 1) return values;
  const [count, ...rest] = shape;
  const size = values.length / count;
  const part = (k) => nested(values.slice(k * size, (k + 1) * size), rest);
  return Array.from({ length: count }, (_, k) => part(k));
}
