// The playground: asks the server about the model, then about rows.

import { showAnswer, showRoad } from "./answer.js";
import { depthPictures } from "./depth.js";
import { byId, element, tell } from "./dom.js";
import { watch } from "./live.js";
import { openInput } from "./rows.js";
import { ask } from "./server.js";

async function start() {
  const facts = await ask("ui/model");
  const examples = await ask("ui/examples");
  showModel(facts);
  showRoad(facts);
  const refresh = watch(facts);
  const input = openInput(facts, examples, byId("row"), send);
  let latest = 0;

  async function send() {
    const turn = ++latest;
    byId("ask").setAttribute("aria-busy", "true");
    tell(byId("fault"), "");
    try {
      const policy = chosenPolicy();
      const rows = [await input.row()];
      const answer = await predict({ rows, policy, ...deadline() });
      // a request of its own: one with all_exits runs to the end, and saves nothing
      const all = await predict({ rows, policy, all_exits: true });
      if (turn === latest) showAnswer(facts, policy, answer, all);
    } catch (refusal) {
      if (turn === latest) tell(byId("fault"), refusal.message);
    } finally {
      if (turn === latest) byId("ask").removeAttribute("aria-busy");
      refresh();
    }
  }

  byId("policies").append(...policyChoices(facts));
  byId("policies").addEventListener("change", () => input.filled() && send());
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("send").disabled = false;
}

async function predict(request) {
  const { rows, milliseconds } = await ask("predict", request);
  return { ...rows[0], milliseconds };
}

function showModel(facts) {
  const certified = facts.certificate.state === "certified";
  document.title = `${facts.name} · offramp`;
  byId("name").textContent = facts.name;
  byId("version").textContent = facts.version;
  byId("state").textContent = certified ? "Certified" : "Not certified, so at full depth";
  byId("sentence").textContent = facts.certificate.sentence;
  byId("promise").classList.toggle("no", !certified);
  byId("promise").hidden = false;
  byId("depth").replaceChildren(...depthPictures(facts.profile));
}

function policyChoices(facts) {
  const early = facts.exits.slice(0, -1).map(({ number }) => [`exit:${number}`, `Exit ${number}`]);
  const choices = [["certified", "Certified"], ["full", "Full depth"], ...early];
  return choices.map(([value, name]) =>
    element(
      "label",
      {},
      element("input", { type: "radio", name: "policy", value, checked: value === "certified" }),
      element("span", {}, name),
    ),
  );
}

function chosenPolicy() {
  return document.querySelector("input[name=policy]:checked").value;
}

function deadline() {
  const field = byId("deadline");
  if (field.validity.badInput) throw new Error("Deadline: expected a number of milliseconds.");
  return field.value === "" ? {} : { deadline_ms: Number(field.value) };
}

start().catch((refusal) => tell(byId("notice"), refusal.message));
