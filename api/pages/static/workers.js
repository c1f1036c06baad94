// Who does what, what waits, and why it waits.

import { fill, h, say, the } from "./dom.js";
import { between, bytes, duration, moment, NONE, number } from "./format.js";
import { live } from "./live.js";

const SHOWN = 100;
let workers = null;
let waiting = null;

function table(titles, rows) {
  const head = titles.map(([title, kind]) => h("th", { scope: "col", class: kind }, title));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

function drawWorkers() {
  if (!workers.length) {
    const text = "No worker has reported within the last minute, so no job is started. Start one on the machine that trains:";
    fill(the("workers"), h("div", { class: "empty" }, h("p", { class: "muted" }, text), h("code", { class: "commands" }, "python -m worker")));
    return;
  }
  const rows = workers.map((each) =>
    h(
      "tr",
      {},
      h("td", {}, h("span", { class: `state ${each.state}` }, each.state)),
      h("td", { class: "mono" }, each.name),
      h("td", {}, each.job_id ? h("a", { href: `/jobs/${each.job_id}`, class: "mono" }, each.job_id) : each.state === "busy" ? "another tenant's job" : NONE),
      h("td", {}, each.queues.length ? each.queues.join(", ") : "none: it shuts down"),
      h("td", {}, each.device ?? NONE),
      h("td", { class: "number" }, each.memory_bytes === null ? NONE : bytes(each.memory_bytes)),
      h("td", {}, moment(each.started_at)),
    ),
  );
  const titles = [["State"], ["Worker"], ["Job"], ["Queues"], ["Device"], ["Memory", "number"], ["Since"]];
  fill(the("workers"), table(titles, rows));
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
  const rows = waiting.map((job) =>
    h(
      "tr",
      {},
      h("td", {}, h("a", { href: `/jobs/${job.id}` }, job.name ?? job.id)),
      h("td", {}, job.queue.name),
      h("td", { class: "number" }, number(job.priority)),
      h("td", { class: "number" }, job.queue.position === null ? NONE : number(job.queue.position)),
      h("td", {}, why(job)),
      h("td", { class: "number" }, duration(Math.round(between(job.created_at)))),
    ),
  );
  const titles = [["Job"], ["Queue"], ["Priority", "number"], ["Ahead", "number"], ["Why it waits"], ["For", "number"]];
  fill(the("waiting"), table(titles, rows));
}

function draw() {
  if (workers) drawWorkers();
  if (waiting) drawWaiting();
}

function problem(error) {
  the("problem").hidden = false;
  say(the("problem"), error.message);
}

live("/v1/workers", (page) => { workers = page.data; draw(); }, { every: 3, fail: problem });
live(`/v1/jobs?status=queued&limit=${SHOWN}`, (page) => { waiting = page.data.toReversed(); draw(); }, { every: 3, fail: problem });
