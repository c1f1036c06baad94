// A batch: the losses of its jobs, and its jobs in a table that sorts, with the values that differ.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { fill, h, problem, say, the } from "./dom.js";
import { duration, moment, NONE, number, percent, words } from "./format.js";
import { live } from "./live.js";
import { chip, counted, drawActions, missing, shown, tile } from "./resource.js";
import { sortable } from "./tables.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/batches/${encodeURIComponent(id)}`;
const MOST_COMPARED = 20;
const MOST_CURVES = 8;
const POINTS = 100;
const chart = new Chart(the("curves"), { title: "Losses of the jobs" });
const sort = { key: null, down: false };

let drawn = null; // which epochs of which jobs the chart shows

function draw(batch) {
  document.title = `${batch.name ?? batch.id} · Loopline`;
  the("batch").hidden = false;
  say(the("title"), batch.name ?? batch.id);
  fill(the("state"), chip(batch.status));
  fill(the("facts"), h("code", {}, batch.id), h("span", {}, "submitted ", moment(batch.created_at, { seconds: true })), batch.ended_at && h("span", {}, "ended ", moment(batch.ended_at, { seconds: true })));
  fill(
    the("tiles"),
    h("div", {}, h("dt", {}, "Progress"), h("dd", {}, percent(batch.fraction), h("progress", { max: 1, value: batch.fraction, class: batch.status, "aria-label": "Progress" }))),
    tile("Jobs", number(batch.total), counted(batch.counts)),
    batch.varied.length > 0 && tile("Varies", number(batch.varied.length), batch.varied.join(", ")),
  );
  const compared = batch.jobs.slice(0, MOST_COMPARED).map((job) => job.id);
  drawActions(
    [{ title: "Cancel", path: batch.links.cancel, show: !batch.terminal, danger: true, question: "Cancel every job of this batch that has not ended?", yes: "Cancel the jobs" }],
    look.again,
    [compared.length > 1 && h("a", { class: "button", href: `/compare?jobs=${compared.join(",")}` }, `Compare ${compared.length === batch.jobs.length ? "them" : `the first ${compared.length}`}`)],
  );
  const failed = batch.jobs.filter((job) => job.status === "failed");
  fill(the("alarms"), failed.slice(0, 5).map((job) => h("p", { class: "notice bad" }, h("a", { href: `/jobs/${job.id}` }, job.name ?? job.id), ": ", job.message ?? job.reason)));
  fill(the("verdicts"), verdicts(batch));
  say(the("undrawn"), batch.jobs.length > MOST_CURVES ? `of the first ${MOST_CURVES} of ${number(batch.jobs.length)} jobs` : "");
  drawCurves(batch.jobs.slice(0, MOST_CURVES)).catch((error) => problem(the("problem"), error));
  const names = [...new Set(batch.jobs.flatMap((job) => Object.keys(job.metrics)))].filter((name) => batch.jobs.some((job) => job.metrics[name] !== null));
  const isValidated = names.some((name) => name.startsWith("validation_")); // the best of a final model after folds is none
  const best = batch.jobs.find((job) => job.best && !(isValidated && job.best.metric.startsWith("train_")))?.best.metric;
  const columns = [
    { key: "job", title: "Job", of: (job) => job.name ?? job.id, write: (job) => h("a", { href: `/jobs/${job.id}` }, job.name ?? job.id) },
    { key: "state", title: "State", of: (job) => job.status, write: (job) => chip(job.status, job.message) },
    ...batch.varied.map((field) => ({ key: `field ${field}`, title: field, number: true, of: (job) => job.cell[field] ?? null, write: (job) => (job.cell[field] === undefined ? NONE : shown(job.cell[field])) })),
    { key: "epoch", title: "Epoch", number: true, of: (job) => job.epoch, write: (job) => (job.epochs === null ? NONE : `${number(job.epoch)} of ${number(job.epochs)}`) },
    ...(best && !names.includes(best) ? [{ key: "best", title: `best ${words(best)}`, number: true, of: (job) => job.best?.value ?? null, write: (job) => number(job.best?.value) }] : []),
    ...names.slice(0, 6).map((name) => ({ key: `metric ${name}`, title: words(name), number: true, of: (job) => job.metrics[name] ?? null, write: (job) => number(job.metrics[name]) })),
    { key: "seconds", title: "Time", number: true, of: (job) => job.seconds, write: (job) => duration(job.seconds) },
  ];
  sortable(the("jobs"), columns, batch.jobs, sort, "Jobs of the batch");
}

/** A metric that says nothing of the jobs, because all of them have the same of it, and it is not perfect. */
function verdicts({ jobs }) {
  const done = jobs.filter((job) => job.status === "succeeded");
  if (done.length < 2) return null;
  const names = Object.keys(done[0].metrics).filter((name) => !name.startsWith("train_") && !name.endsWith("_loss"));
  const alike = names.filter((name) => ![null, 1].includes(done[0].metrics[name]) && done.every((job) => job.metrics[name] === done[0].metrics[name]));
  return alike.length > 0 && h("p", { class: "notice warn" }, `All ${number(done.length)} jobs have the same ${alike.map((name) => `${words(name)} (${number(done[0].metrics[name])})`).join(" and ")}. Perhaps each gives one answer to everything: see the baseline on the page of `, h("a", { href: `/jobs/${done[0].id}` }, "a job"), ".");
}

/** The validation losses of some jobs, or those of training where there are none. */
async function drawCurves(jobs) {
  const begun = jobs.filter((job) => job.epoch > 0);
  const now = JSON.stringify(begun.map((job) => [job.id, job.epoch]));
  the("curves-part").hidden = begun.length === 0;
  if (now === drawn || !begun.length) return;
  drawn = now;
  const { data } = await get(`/v1/curves?${new URLSearchParams({ jobs: begun.map((job) => job.id).join(","), points: POINTS })}`);
  const of = new Map(data.map((each) => [each.job_id, each]));
  const isValidated = data.some((each) => each.validation_loss.some((value) => value !== null));
  say(the("curves-title"), isValidated ? "Validation loss" : "Training loss");
  const lines = begun.flatMap((job, place) => {
    const curve = of.get(job.id);
    const label = Object.entries(job.cell).map(([field, value]) => `${field.split(".").at(-1)} ${shown(value)}`).join(", ") || job.name || job.id;
    return curve ? [{ label, colour: `series-${place + 1}`, x: curve.epoch, y: isValidated ? curve.validation_loss : curve.train_loss }] : [];
  });
  chart.show({ lines, x: "epoch", whole: true });
}

const look = live(path, draw, { every: 3, until: (batch) => batch.terminal, fail: missing("batch") });
