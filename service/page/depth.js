// The layers in pictures: W-distance to the labels and to the teacher, and quality, by depth.

import { element, shape, short } from "./dom.js";

const [WIDTH, PANEL] = [320, 150];
const [LEFT, RIGHT, TOP] = [40, 10, 30];
const MOST_NAMES = 14;

/** Three figures, side by side where there is room. */
export function depthPictures(profile) {
  return [
    { title: "W2 to the labels", key: "to_labels", floor: profile.floor_labels, series: 1 },
    { title: "W2 to the teacher", key: "to_teacher", floor: profile.floor_teacher, series: 2 },
    { title: "micro-F1", key: "micro_f1", floor: null, series: 3 },
  ].map((panel) => figure(panel, profile.layers));
}

function figure(panel, layers) {
  const estimates = layers.map((layer) => layer[panel.key]);
  const { floor } = panel;
  const highest = Math.max(...estimates.map((e) => e.high));
  // a floor far above the layers would press them all onto one line
  const near = floor !== null && floor.high <= 1.4 * highest;
  const note = floor
    ? `noise floor ${floor.value.toFixed(3)}${near ? "" : ", above the picture"}`
    : "all rows answered there";
  const svg = drawn(panel, layers, estimates, near);
  const values = layers.map((layer) => `${layer.layer} ${layer[panel.key].value.toFixed(3)}`);
  svg.setAttribute("aria-label", `${panel.title} by depth: ${values.join(", ")}. ${note}`);
  const [title, soft] = [element("b", {}, panel.title), element("span", { class: "soft" }, note)];
  const caption = element("figcaption", {}, title, soft);
  return element("figure", { class: `series${panel.series}` }, caption, svg);
}

function drawn({ floor, series }, layers, estimates, near) {
  const bottom = TOP + PANEL;
  const all = [...estimates, ...(near ? [floor] : [])].flatMap((e) => [e.value, e.low, e.high]);
  const { low, high, step } = scale(Math.min(...all), Math.max(...all), floor !== null);
  const y = (value) => bottom - ((value - low) / (high - low)) * PANEL;
  const longest = Math.max(...layers.map((layer) => short(layer.layer, 16).length));
  const below = layers.length > 4 ? 14 + 5.4 * longest : 28;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${bottom + below}`, role: "img" });
  for (let tick = low; tick <= high + step / 2; tick += step) {
    svg.append(shape("path", { class: "grid", d: `M${LEFT} ${y(tick)}H${WIDTH - RIGHT}` }));
    svg.append(text(LEFT - 6, y(tick) + 3.5, tick.toFixed(digits(step)), "end"));
  }
  svg.append(...exitMarks(layers, bottom), ...(near ? noiseFloor(floor, y) : []));
  svg.append(...curve(layers, estimates, series, y), ...layerNames(layers, bottom));
  return svg;
}

function noiseFloor(floor, y) {
  const size = { width: WIDTH - LEFT - RIGHT, height: Math.max(y(floor.low) - y(floor.high), 0) };
  return [
    shape("rect", { class: "band", x: LEFT, y: y(floor.high), ...size }),
    shape("path", { class: "floor", d: `M${LEFT} ${y(floor.value)}H${WIDTH - RIGHT}` }),
  ];
}

function curve(layers, estimates, series, y) {
  const points = estimates.map((estimate, place) => [x(place, layers), estimate]);
  const line = points.map(([at, { value }]) => `${at} ${y(value)}`).join("L");
  const parts = [shape("path", { class: "line", d: `M${line}` })];
  for (const [at, { value, low, high }] of points) {
    const [a, b] = [y(low), y(high)];
    const d = `M${at} ${a}V${b}M${at - 3} ${a}h6M${at - 3} ${b}h6`;
    parts.push(shape("path", { class: "interval", d }));
    parts.push(marker(series, at, y(value)));
  }
  return parts;
}

function x(place, layers) {
  const width = WIDTH - LEFT - RIGHT - 32;
  return LEFT + 16 + (layers.length === 1 ? width / 2 : (place * width) / (layers.length - 1));
}

/** Round numbers around the values; distances start at 0. */
function scale(lowest, highest, fromZero) {
  const from = fromZero ? Math.min(lowest, 0) : lowest;
  const span = Math.max(highest - from, 1e-6);
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => span / n <= 5);
  return { low: Math.floor(from / step) * step, high: Math.ceil(highest / step) * step, step };
}

function digits(step) {
  return Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
}

function marker(series, x, y) {
  if (series === 1) return shape("circle", { class: "marker", cx: x, cy: y, r: 3.6 });
  const d = series === 2 ? "m-3.3-3.3h6.6v6.6h-6.6z" : "m0-4.4l4.4 4.4-4.4 4.4-4.4-4.4z";
  return shape("path", { class: "marker", d: `M${x} ${y}${d}` });
}

function exitMarks(layers, bottom) {
  const marks = [text(LEFT - 6, TOP - 14, "exit", "end")];
  layers.forEach((layer, place) => {
    if (layer.exit === null) return;
    const at = x(place, layers);
    marks.push(shape("path", { class: "exit", d: `M${at} ${TOP - 8}V${bottom}` }));
    marks.push(text(at, TOP - 14, String(layer.exit), "middle"));
  });
  return marks;
}

function layerNames(layers, bottom) {
  const every = Math.ceil(layers.length / MOST_NAMES); // the last always has its name
  return layers.flatMap((layer, place) => {
    if ((layers.length - 1 - place) % every) return [];
    const [at, below] = [x(place, layers), bottom + 16];
    if (layers.length <= 4) return [text(at, below, short(layer.layer, 12), "middle")];
    const name = text(at + 3, below - 4, short(layer.layer, 16), "end");
    name.setAttribute("transform", `rotate(-50 ${at + 3} ${below - 4})`);
    return [name];
  });
}

function text(at, y, content, anchor) {
  return shape("text", { x: at, y, "text-anchor": anchor }, content);
}
