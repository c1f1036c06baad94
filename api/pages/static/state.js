// How a job's state, tags and progress are written, in every list.

import { h } from "./dom.js";
import { between, duration, NONE, number, percent, words } from "./format.js";

/** A job's status; `pruned` of a trial that its search stopped early, as in the search's own list. */
export function status(job) {
  return job.status === "cancelled" && job.reason === "pruned" ? "pruned" : job.status;
}

export function state(job) {
  if (job.silent_since) return h("span", { class: "state silent", title: `No heartbeat since ${job.silent_since}` }, "silent");
  const asked = job.status === "running" && (job.cancel_requested ? "stopping" : job.pause_requested ? "pausing" : null);
  const pruned = status(job) === "pruned";
  return h("span", { class: `state ${job.status}`, title: pruned ? "Its search cancelled this trial early" : null }, asked || status(job));
}

/** How far a job is: `11 % · epoch 46 of 400`. */
export function reached(job) {
  const { progress } = job;
  if (job.status === "queued" && !progress.fraction) {
    if (job.queue.position === null) return "waits";
    return job.queue.position === 0 ? `next in ${job.queue.name}` : `${number(job.queue.position)} ahead in ${job.queue.name}`;
  }
  if (job.kind === "predict") return progress.sequences === null ? NONE : `${number(progress.answered)} of ${number(progress.sequences)} sequences`;
  const epochs = progress.epochs === null ? "" : `epoch ${number(progress.epoch)} of ${number(progress.epochs)}`;
  return job.terminal || !epochs ? epochs : `${percent(progress.fraction)} · ${epochs}`;
}

/**
 * The number by which a job is judged, and its name: with folds the mean over them, else that of the test if there was
 * one, else the best so far. `spread` is the standard deviation over the folds.
 */
export function judged(job) {
  const { mean, std } = job.result ?? {};
  const { fold, folds } = job.progress;
  if (mean) {
    const metric = judging(mean);
    return { value: mean[metric], spread: std?.[metric] ?? null, name: `mean ${words(metric)}`, metric, isTest: false, isMean: true };
  }
  if (folds !== null) {
    if (fold === null || fold > folds || !job.best) return null; // the final model is validated on nothing
    return { value: job.best.value, name: `${words(job.best.metric)} of fold ${fold}`, metric: job.best.metric, isTest: false };
  }
  const tested = Object.keys(job.result?.metrics ?? {}).find((name) => name.startsWith("test_") && name !== "test_loss");
  if (tested) return { value: job.result.metrics[tested], name: words(tested), metric: tested, isTest: true };
  return job.best ? { value: job.best.value, name: words(job.best.metric), metric: job.best.metric, isTest: false } : null;
}

/** The one of some metrics that judges: no loss, if there is another. */
function judging(metrics) {
  const names = Object.keys(metrics).filter((name) => metrics[name] !== null);
  return names.find((name) => !name.endsWith("_loss")) ?? names[0] ?? Object.keys(metrics)[0];
}

/** A number with its spread over folds, if it is a mean of them. */
export function spreadOut(value, spread) {
  return spread === null || spread === undefined ? number(value) : `${number(value)} ± ${number(spread)}`;
}

/** The time that a job took, or has left. */
export function time(job) {
  if (job.terminal) return h("span", { title: "From its start to its end" }, duration(between(job.started_at, job.finished_at)));
  if (job.progress.eta_seconds !== null) return h("span", { title: "Estimated" }, `${duration(job.progress.eta_seconds)} left`);
  return NONE;
}

/** A dialog that asks before something that cannot be undone; gives whether to go on. */
export function sure(question, yes) {
  const no = h("button", { value: "no", autofocus: true }, "No");
  return answer(question, h("form", { method: "dialog", class: "row" }, no, h("button", { value: "yes", class: "danger" }, yes)));
}

/** A dialog that asks for a name, of at most `most` characters; gives it, or null. */
export async function named(question, { label, value, yes, pattern, allowed, most }) {
  const input = h("input", { name: "name", required: true, autofocus: true, autocomplete: "off", maxlength: most, pattern, title: allowed, ".value": value });
  const no = h("button", { type: "button", onclick: () => no.closest("dialog").close() }, "No");
  const row = h("div", { class: "row" }, no, h("button", { value: "yes", class: "main" }, yes));
  const form = h("form", { method: "dialog" }, h("label", { class: "field" }, h("span", {}, label), input, h("small", { class: "muted" }, allowed)), row);
  return (await answer(question, form)) ? input.value : null;
}

/** A dialog that asks whether to go on, with what speaks against it, and why; gives the reason, or null. */
export async function reasoned(question, { against, yes, most }) {
  const input = h("input", { name: "reason", autocomplete: "off", maxlength: most });
  const no = h("button", { type: "button", autofocus: true, onclick: () => no.closest("dialog").close() }, "No");
  const row = h("div", { class: "row" }, no, h("button", { value: "yes", class: "main" }, yes));
  const warning = against && h("p", { class: "notice warn" }, against);
  const form = h("form", { method: "dialog" }, warning, h("label", { class: "field" }, h("span", {}, "Reason, if you like"), input), row);
  return (await answer(question, form)) ? input.value.trim() : null;
}

/** Shows a question with a form that closes its dialog; gives whether its answer is yes. */
function answer(question, form) {
  const dialog = h("dialog", { "aria-label": question }, h("p", {}, question), form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
