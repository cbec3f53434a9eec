// What the model said of a row: its labels at every exit, where it left, what that saved.

import { byId, element, milliseconds, percent } from "./dom.js";

const FEW = 12; // labels shown before somebody asks for all

/** The road and its exits, before any row was sent. */
export function showRoad(facts) {
  const first = { text: "Write a text", image: "Drop an image", numbers: "Give it a row" };
  byId("summary").replaceChildren(
    element("p", { class: "soft" }, `${first[facts.input.kind]} to see at which exit it leaves.`),
  );
  byId("exits").replaceChildren(table(facts, null, null, FEW));
}

/**
 * answer : the row as the policy answers it, with the `milliseconds` of its request
 * all : the same row with `all_exits`, and the `milliseconds` of that request
 */
export function showAnswer(facts, policy, answer, all) {
  byId("summary").replaceChildren(...summary(facts, policy, answer, all));
  fillTable(facts, answer, all, FEW);
}

function fillTable(facts, answer, all, count) {
  const place = byId("exits");
  place.replaceChildren(table(facts, answer, all, count));
  if (facts.labels.length <= FEW) return;
  const more = count === FEW;
  const text = more ? `All ${facts.labels.length} labels` : "Only the likeliest";
  const button = element("button", { type: "button", class: "quiet", id: "more" }, text);
  button.onclick = () => {
    fillTable(facts, answer, all, more ? Infinity : FEW);
    byId("more").focus();
  };
  place.append(button);
}

function summary(facts, policy, answer, all) {
  const exit = facts.exits[answer.exit - 1];
  const chips = answer.labels.map(({ name, probability }) =>
    element("li", {}, name, " ", element("span", {}, percent(probability))),
  );
  const set = chips.length
    ? element("ul", { class: "chips", "aria-label": "Label set" }, ...chips)
    : element("p", { class: "chips none" }, "No label");
  const place = `Left at exit ${answer.exit} of ${answer.exits}`;
  const badge = answer.certified
    ? element("span", { class: "badge yes" }, "certified")
    : element("span", { class: "badge" }, "not certified");
  const left = element("p", { class: "left" }, element("b", { id: "left" }, place), " ", badge);
  const why = element("p", { class: "soft" }, reason(policy, answer, exit));
  return [left, set, why, saving(facts, exit), times(answer, all)];
}

function reason(policy, answer, exit) {
  if (answer.left === "deadline") return "A deeper answer would have come after the deadline.";
  if (answer.left === "overload") return "The service has more rows than it can run to the end.";
  if (policy.startsWith("exit:")) return "It left there because you asked for that exit.";
  if (policy === "full") return "Full depth was asked for: every stage was computed.";
  const score = answer.score.toFixed(3);
  return exit.threshold === null
    ? `No earlier exit was sure enough, so it went all the way (score ${score}).`
    : `Sure enough: its score ${score} reached the threshold ${exit.threshold.toFixed(3)}.`;
}

/** Stage time until this exit, as a bar beside the whole model's. */
function saving(facts, exit) {
  const bar = element("span", { class: "spent" });
  bar.style.width = percent(Math.min(exit.time, 1));
  const saved = 1 - exit.time;
  const text =
    saved > 0.005
      ? `Saves ${percent(saved)} of the model’s time`
      : `Saves nothing: ${percent(exit.time)} of the model’s time`;
  const alone = `alone it takes ${percent(exit.time_single)} (measured at calibration)`;
  return element(
    "div",
    { class: "saving" },
    element("p", {}, element("b", {}, text), ` in batches of ${facts.costs.batch_rows}; ${alone}`),
    element("div", { class: "meter", role: "img", "aria-label": text }, bar),
  );
}

function times(answer, all) {
  const now = `This time it took ${milliseconds(answer.milliseconds)}`;
  const deepest = all ? Math.max(...all.all_exits.map((one) => one.exit)) : 0;
  const whole =
    deepest > answer.exit
      ? `; down to exit ${deepest} it took ${milliseconds(all.milliseconds)} (one look each)`
      : "";
  return element("p", { class: "soft" }, `${now}${whole}.`);
}

function table(facts, answer, all, count) {
  const exits = facts.exits.map((exit) => ({
    ...exit,
    said: all?.all_exits.find((one) => one.exit === exit.number) ?? null,
    left: answer?.exit === exit.number,
    beyond: answer !== null && exit.number > answer.exit,
  }));
  const begin = element("td", {}, element("span", { class: "road" }));
  return element(
    "table",
    { class: answer ? "exits" : "exits waiting" },
    element("thead", {}, element("tr", {}, begin, ...exits.map(head))),
    element("tbody", {}, ...likeliest(facts, exits, count).map((label) => labelRow(label, exits))),
    element("tfoot", {}, scores(exits), costs(exits)),
  );
}

function state(exit) {
  return exit.left ? "here" : exit.beyond ? "beyond" : "passed";
}

function head(exit) {
  return element(
    "th",
    { scope: "col", class: state(exit), "aria-current": exit.left ? "step" : undefined },
    element("span", { class: "road" }, element("span", { class: "mark" })),
    element("span", { class: "number" }, `Exit ${exit.number}`),
    element("span", { class: "layer", title: exit.layer }, exit.layer),
  );
}

/** The likeliest labels at any exit, and all that are in a set, the likeliest first. */
function likeliest(facts, exits, count) {
  const said = exits.map((exit) => exit.said).filter((one) => one !== null);
  if (!said.length) return [];
  const most = (name) => Math.max(...said.map((one) => one.probabilities[name]));
  const inSet = new Set(said.flatMap((one) => one.labels.map((label) => label.name)));
  const sorted = [...facts.labels].sort((a, b) => most(b) - most(a));
  return sorted.filter((name, place) => place < count || inSet.has(name));
}

function labelRow(name, exits) {
  const cells = exits.map((exit) => {
    if (!exit.said) return element("td", { class: state(exit) }, "–");
    const probability = exit.said.probabilities[name];
    const chosen = exit.said.labels.some((label) => label.name === name);
    const bar = element("span", { class: "bar" });
    bar.style.width = percent(probability);
    const value = element("span", { class: "value" }, percent(probability));
    const mark = chosen ? element("span", { class: "unseen" }, " in the label set") : null;
    return element("td", { class: `${state(exit)}${chosen ? " chosen" : ""}` }, bar, value, mark);
  });
  return element("tr", {}, element("th", { scope: "row", title: name }, name), ...cells);
}

function scores(exits) {
  const cells = exits.map((exit) => {
    const off = exit.number === exits.length ? "last" : "off";
    const from = exit.threshold === null ? off : `≥ ${exit.threshold.toFixed(3)}`;
    const score = exit.said ? exit.said.score.toFixed(3) : "";
    return element("td", { class: state(exit) }, score, element("small", {}, from));
  });
  return element("tr", {}, element("th", { scope: "row" }, "Score"), ...cells);
}

function costs(exits) {
  const cells = exits.map((exit) => element("td", { class: state(exit) }, percent(exit.time)));
  return element("tr", {}, element("th", { scope: "row" }, "Time"), ...cells);
}
