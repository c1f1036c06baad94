// A batch: its jobs in a table that sorts, with the values that differ.

import { fill, h, say, the } from "./dom.js";
import { duration, moment, NONE, number, percent, words } from "./format.js";
import { live } from "./live.js";
import { chip, counted, drawActions, missing, shown, tile } from "./resource.js";
import { sortable } from "./tables.js";

const id = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/batches/${encodeURIComponent(id)}`;
const MOST_COMPARED = 20;
const sort = { key: null, down: false };

function draw(batch) {
  document.title = `${batch.name ?? batch.id} · Loopline`;
  the("batch").hidden = false;
  say(the("title"), batch.name ?? batch.id);
  fill(the("state"), chip(batch.status));
  fill(the("facts"), h("code", {}, batch.id), h("span", {}, "submitted ", moment(batch.created_at, { seconds: true })), batch.ended_at && h("span", {}, "ended ", moment(batch.ended_at, { seconds: true })));
  fill(
    the("tiles"),
    h("div", {}, h("dt", {}, "Progress"), h("dd", {}, percent(batch.fraction), h("progress", { max: 1, value: batch.fraction, "aria-label": "Progress" }))),
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

const look = live(path, draw, { every: 3, until: (batch) => batch.terminal, fail: missing("batch") });
