// Requests to the server; its refusals in words, and the key that it may ask for.

import { byId } from "./dom.js";

let key = ""; // in memory only: gone with the tab
let asking = null;

/** Why a request has no answer, in words for people. `status` is 0 where none came back. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * GET, or POST where there is a document to send. Where the server asks for a key, the user is
 * asked once, unless `quiet`, and the request is sent again.
 */
export async function ask(path, document, quiet = false) {
  const sent = key;
  const response = await answered(path, document);
  if (response.status === 401 && !quiet && (sent !== key || (await unlocked(response)))) {
    return ask(path, document);
  }
  if (!response.ok) throw new Refusal(response.status, await words(response));
  return response.json();
}

async function answered(path, document) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const request = { headers };
  if (document !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify(document) });
  }
  try {
    return await fetch(path, request);
  } catch {
    throw new Refusal(0, "The server does not answer. Is it still running?");
  }
}

async function words(response) {
  try {
    const { error } = await response.clone().json();
    if (typeof error === "string" && error) return error;
  } catch {
    // a proxy's page, not the service's words
  }
  return `The server answered with status ${response.status}.`;
}

/** Whether the user gave a key; several requests wait for the same answer. */
function unlocked(response) {
  asking ??= askForKey(response).finally(() => (asking = null));
  return asking;
}

async function askForKey(response) {
  const [lock, field] = [byId("lock"), byId("key")];
  byId("lock-reason").textContent = await words(response);
  field.value = "";
  lock.returnValue = "";
  lock.showModal();
  return new Promise((resolve) => {
    byId("lock-cancel").onclick = () => lock.close("cancel");
    lock.onclose = () => {
      const given = field.value.trim();
      field.value = "";
      const use = lock.returnValue !== "cancel" && given !== "";
      if (use) key = given;
      resolve(use);
    };
  });
}
