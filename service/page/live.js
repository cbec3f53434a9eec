// What the service does right now, from `GET /stats`, while somebody looks.

import { byId, element, milliseconds, percent } from "./dom.js";
import { ask } from "./server.js";

const EVERY = 2000; // ms

/** Asks again and again, and at once when the page comes to be seen or `refresh` is called. */
export function watch(facts) {
  let timer = 0;
  async function look() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      show(facts, await ask("stats", undefined, true));
    } catch (refusal) {
      mark(false, refusal.message);
    }
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  }
  document.addEventListener("visibilitychange", look);
  look();
  return look;
}

function mark(ready, reason) {
  const dot = byId("ready");
  dot.className = ready ? "dot yes" : "dot no";
  const text = ready ? "ready" : `not ready: ${reason}`;
  dot.title = text;
  dot.replaceChildren(element("span", { class: "unseen" }, text));
}

function show(facts, stats) {
  mark(stats.ready, stats.reason);
  const times = stats.milliseconds;
  byId("live").replaceChildren(
    element(
      "dl",
      { class: "figures" },
      ...figure("rows", count(stats.rows)),
      ...figure("requests", count(stats.requests.ok)),
      ...figure("failed", count(stats.requests.failed)),
      ...figure("certificate", stats.certificate),
      ...figure("up for", duration(stats.uptime_seconds)),
    ),
    element("h3", {}, "Where rows leave"),
    shares(facts, stats),
    element("p", { class: "soft" }, "The mark is the share on the test split."),
    element("h3", {}, "Latency of recent requests"),
    times
      ? element(
          "dl",
          { class: "figures" },
          ...["p50", "p95", "p99"].flatMap((name) => figure(name, milliseconds(times[name]))),
        )
      : element("p", { class: "soft" }, "No request yet."),
  );
}

function figure(name, value) {
  return [element("div", {}, element("dt", {}, name), element("dd", {}, value))];
}

function shares(facts, stats) {
  const bars = stats.exits.map(({ exit, share }) => {
    const bar = element("span", { class: "bar" });
    bar.style.width = percent(share);
    const expected = element("span", { class: "expected" });
    expected.style.left = percent(facts.exits[exit - 1].share_leaving);
    const track = element("span", { class: "track" }, bar, expected);
    const value = element("span", { class: "value" }, percent(share));
    return element("li", {}, `Exit ${exit}`, track, value);
  });
  return element("ol", { class: "shares" }, ...bars);
}

function count(number) {
  return number.toLocaleString("en");
}

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}
