// How far the probabilities of a model can be believed: how often such answers came true on samples that it had not seen.

import { h } from "./dom.js";
import { number, percent } from "./format.js";

const BINS = 10;
const FEWEST = 10; // answers of a range of probabilities from which a share says something
const TASKS = ["classification", "multilabel", "tagging", "next_step"]; // those with probabilities

/** Sentences about the probabilities in an answer, from the calibration in model.json; none if it has no probabilities. */
export function trusted(document_, found) {
  if (!TASKS.includes(found.task)) return [];
  const split = ["test", "validation"].find((name) => document_.details?.[name]?.calibration?.error != null);
  if (!split) return [h("p", { class: "muted" }, "Nobody knows how far to believe these probabilities: they were compared with no test or validation samples.")];
  const { error, count, share } = document_.details[split].calibration;
  const measured = count.reduce((sum, each) => sum + each, 0);
  const general = `On average, its probabilities are off by ${number(error, 2)}, as measured on ${number(measured)} ${found.task === "multilabel" ? "labels" : "answers"} of the ${split} part.`;
  return [...ofAnswer(found, count, share, split), h("p", { class: "muted" }, general)];
}

/** What became of answers that the model was as sure of as of this one; nothing for several sequences at once. */
function ofAnswer(found, count, share, split) {
  if (found.task !== "classification" || found.rows.length !== 1) return [];
  const sure = Math.max(...Object.entries(found.rows[0]).filter(([name]) => name.startsWith("probability_")).map(([, value]) => value));
  const bin = Math.min(BINS - 1, Math.floor(sure * BINS));
  const range = `${(bin / BINS).toFixed(1)} to ${((bin + 1) / BINS).toFixed(1)}`;
  if (count[bin] < FEWEST) return [h("p", {}, `The model has given too few answers with a probability of ${range} on the ${split} part (${number(count[bin])}) to say how often they are right.`)];
  return [h("p", {}, `On the ${split} part, ${percent(share[bin])} of the ${number(count[bin])} answers with a probability of ${range} were right.`)];
}
