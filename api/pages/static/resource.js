// What the pages of a search, a batch and a schedule have in common: their tiles, their buttons, and what is missing.

import { ask } from "./api.js";
import { fill, h, problem, say, the } from "./dom.js";
import { number } from "./format.js";
import { may, Scope } from "./session.js";
import { sure } from "./state.js";

const COLOURS = { succeeded: "good", promoted: "good", failed: "bad", refused: "bad", missed: "warn", skipped: "warn" };

/** A state or an outcome as a coloured word. */
export function chip(text, title = null) {
  return h("span", { class: `chip ${COLOURS[text] ?? ""}`, title }, text);
}

export function tile(title, value, below = null) {
  return h("div", {}, h("dt", {}, title), h("dd", {}, value, below && h("small", {}, below)));
}

/** How many there are in each state, as `17 succeeded, 7 pruned`. */
export function counted(counts) {
  return Object.entries(counts ?? {}).filter(([, count]) => count > 0).map(([state, count]) => `${count} ${state}`).join(", ");
}

/**
 * Fills `actions`. Each is `{title, path, show, question, yes, main, danger}` of a change that a key with `submit` may
 * make; `then` is called after one. `more` comes first, for everybody.
 */
export async function drawActions(actions, then, more = []) {
  const allowed = await may(Scope.SUBMIT);
  const buttons = actions
    .filter((action) => allowed && action.show)
    .map((action) => h("button", { type: "button", class: action.danger ? "danger" : action.main ? "main" : null, onclick: () => act(action, then) }, action.title));
  fill(the("actions"), more, buttons);
}

async function act({ path, question, yes }, then) {
  if (question && !(await sure(question, yes))) return;
  try {
    await ask(path, { method: "POST" });
    problem(the("problem"), null);
  } catch (error) {
    problem(the("problem"), error);
  }
  then();
}

/** Shows instead of `page` that there is none. */
export function missing(page) {
  return (error) => {
    the(page).hidden = true;
    the("missing").hidden = false;
    say(the("missing-why"), error.message);
  };
}

/** A value of a spec as a table shows it. Whole numbers such as seeds keep all their digits. */
export function shown(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
