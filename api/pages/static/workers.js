// Who does what, what waits, and why it waits.

import { fill, h, say, the } from "./dom.js";
import { between, bytes, duration, moment, NONE, number } from "./format.js";
import { live } from "./live.js";
import { table } from "./tables.js";

const SHOWN = 100;
let workers = null;
let waiting = null;
let quotas = null;
let names = new Map(); // of running jobs

function drawWorkers() {
  if (!workers.length) {
    const text = "No worker has reported within the last minute, so no job is started. This starts the whole service on this machine, workers included:";
    fill(
      the("workers"),
      h("div", { class: "empty" }, h("p", { class: "muted" }, text), h("code", { class: "commands" }, "make run"), h("p", { class: "muted" }, "On a server, ", h("a", { href: "/guide/operations" }, "Operations"), " says how to find out why none is there.")),
    );
    return;
  }
  const rows = workers.map((each) => [
    h("span", { class: `state ${each.state}` }, each.state),
    h("span", { class: "mono" }, each.name),
    each.job_id ? h("a", { href: `/jobs/${each.job_id}`, class: names.get(each.job_id) ? null : "mono" }, names.get(each.job_id) ?? each.job_id) : each.state === "busy" ? "another tenant's job" : NONE,
    each.queues.length ? each.queues.join(", ") : "none: it shuts down",
    each.device ?? NONE,
    each.memory_bytes === null ? NONE : bytes(each.memory_bytes),
    moment(each.started_at),
  ]);
  fill(the("workers"), table([["State"], ["Worker"], ["Job"], ["Queues"], ["Device"], ["Memory", "number"], ["Since"]], rows));
}

/** Why a job waits, as a sentence. */
function why(job) {
  if (job.message) return job.message;
  if (job.waits_until) return `It is tried again in ${duration(Math.max(0, (new Date(job.waits_until) - new Date()) / 1000))}.`;
  const takers = (workers ?? []).filter((each) => each.queues.includes(job.queue.name));
  if (workers && !takers.length) return `No worker takes jobs of the queue ${job.queue.name}.`;
  if (takers.length && takers.every((each) => each.state === "broken")) return "The GPU of every worker of its queue is broken.";
  if (job.queue.position) return job.queue.position === 1 ? "One of your jobs is ahead of it." : `${number(job.queue.position)} of your jobs are ahead of it.`;
  return takers.length ? "It is next; every worker of its queue is busy." : "It is next.";
}

function drawWaiting() {
  if (!waiting.length) {
    fill(the("waiting"), h("p", { class: "muted" }, "No job waits."));
    return;
  }
  const rows = waiting.map((job) => [
    h("a", { href: `/jobs/${job.id}` }, job.name ?? job.id),
    job.queue.name,
    number(job.priority),
    job.queue.position === null ? NONE : number(job.queue.position),
    why(job),
    duration(Math.round(between(job.created_at))),
  ]);
  fill(the("waiting"), table([["Job"], ["Queue"], ["Priority", "number"], ["Ahead", "number"], ["Why it waits"], ["For", "number"]], rows));
}

/** How much of what there is is used. A quota is the tenant's. */
function drawTiles() {
  const of = ({ used, limit }) => [number(used), limit === null ? "" : h("small", {}, `of at most ${number(limit)}`)];
  const busy = workers?.filter((each) => each.state === "busy").length;
  const broken = workers?.filter((each) => each.state === "broken").length;
  const tile = (title, ...value) => h("div", {}, h("dt", {}, title), h("dd", {}, value));
  fill(
    the("tiles"),
    workers && tile("Workers at work", `${number(busy)} of ${number(workers.length)}`, broken > 0 && h("small", {}, `${number(broken)} broken`)),
    quotas && tile("Running jobs", of(quotas.running)),
    quotas && tile("Waiting jobs", of(quotas.queued)),
    quotas && tile("Stored", bytes(quotas.bytes.used), quotas.bytes.limit !== null && h("small", {}, `of at most ${bytes(quotas.bytes.limit)}`)),
  );
}

function draw() {
  drawTiles();
  if (workers) drawWorkers();
  if (waiting) drawWaiting();
}

function problem(error) {
  the("problem").hidden = false;
  say(the("problem"), error.message);
}

live("/v1/workers", (page) => { workers = page.data; draw(); }, { every: 3, fail: problem });
live(`/v1/jobs?status=queued&limit=${SHOWN}`, (page) => { waiting = page.data.toReversed(); draw(); }, { every: 3, fail: problem });
live(`/v1/jobs?status=running&limit=${SHOWN}`, (page) => { names = new Map(page.data.map((job) => [job.id, job.name])); draw(); }, { every: 3, fail: problem });
live("/v1/whoami", (identity) => { quotas = identity.quotas; draw(); }, { every: 5, fail: problem });
