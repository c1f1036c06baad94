// How a version of a model is written: its aliases, the number by which it is judged, and what its retraining came to.

import { h } from "./dom.js";

export const PRODUCTION = "production";

export function aliases(version) {
  return version.aliases.map((alias) => h("span", { class: `chip ${alias === PRODUCTION ? "good" : ""}` }, alias));
}

/** The metrics that some versions have: those of the test first, and losses last. */
export function metricsOf(versions) {
  const names = [...new Set(versions.flatMap((version) => Object.keys(version.metrics).filter((name) => version.metrics[name] !== null)))];
  const place = (name) => (name.startsWith("test_") ? 0 : 1) + (name.endsWith("_loss") ? 2 : 0);
  return names.sort((a, b) => place(a) - place(b));
}

/** The metric of the test, or of validation, by which versions are compared; that of their gate, if they have one. */
export function judgedBy(versions) {
  const names = metricsOf(versions);
  const gated = versions.map((version) => version.retrain?.gate?.metric).find(Boolean);
  return names.find((name) => gated && name === `test_${gated}`) ?? names[0] ?? null;
}

const DECISIONS = { promoted: "promoted", held_back: "held back", registered: "registered", failed: "not registered" };

/** In a few words what a retraining came to, with the sentence as its title; how a version came otherwise. */
export function verdict(version) {
  const { retrain } = version;
  if (!retrain) return h("span", { class: "muted" }, version.note ?? "registered by hand");
  const sign = { promoted: "good", held_back: "warn", failed: "bad" }[retrain.decision];
  return h("span", { class: `chip ${sign ?? ""}`, title: retrain.message }, DECISIONS[retrain.decision]);
}

/**
 * Whether an alias can go back, by its moves (newest first): to a version that it pointed at before, other than the one
 * in use, and that is one of `known`.
 */
export function goesBack(moves, alias, used, known) {
  let path = []; // the promotions that led to where it stands
  for (const move of moves.filter((each) => each.alias === alias).toReversed()) {
    if (move.action === "demote") path = [];
    else if (move.action === "promote") path.push(move.to_version);
    else path.length = Math.max(0, path.slice(0, -1).lastIndexOf(move.to_version) + 1);
  }
  return path.some((version) => version !== used && known.has(version));
}
