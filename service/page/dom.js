// Elements made of data: texts become text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child that is no node becomes text. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a picture. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Shows a message in its place; an empty one hides it. */
export function tell(place, message) {
  place.textContent = message;
  place.hidden = !message;
}

/** `0.256` as `26%`, small ones with a decimal. */
export function percent(share) {
  const value = share * 100;
  return `${value.toFixed(value < 9.95 && value > 0 ? 1 : 0)}%`;
}

/** Milliseconds with three digits that count. */
export function milliseconds(value) {
  return `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ms`;
}

/** One line of at most `width` letters; the end is kept, since names differ there. */
export function short(name, width) {
  const line = name.replace(/\s+/g, " ").trim();
  if (line.length <= width) return line;
  const head = Math.floor(width / 3);
  return `${line.slice(0, head)}…${line.slice(head + 1 - width)}`;
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
