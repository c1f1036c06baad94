// A schedule: when it is due, what it submits, and what came of each slot.

import { fill, h, say, the } from "./dom.js";
import { between, duration, moment, NONE } from "./format.js";
import { live } from "./live.js";
import { chip, counted, drawActions, missing, tile } from "./resource.js";
import { table } from "./tables.js";
import { inWords } from "./wording.js";

const name = decodeURIComponent(location.pathname.split("/")[2]);
const path = `/v1/schedules/${encodeURIComponent(name)}`;
const OVERLAP = { skip: "skips a slot while the last batch runs", queue: "waits for the last batch", replace: "cancels the last batch" };

function draw(schedule) {
  document.title = `${schedule.name} · Loopline`;
  the("schedule").hidden = false;
  say(the("title"), schedule.name);
  fill(the("state"), schedule.paused_at ? chip("paused") : null);
  fill(the("facts"), h("code", {}, schedule.cron), h("span", {}, schedule.time_zone), h("span", {}, OVERLAP[schedule.overlap] ?? schedule.overlap), schedule.only_new_data && h("span", {}, "only if there is new data"), schedule.jitter_seconds > 0 && h("span", {}, `up to ${duration(schedule.jitter_seconds)} later`));
  fill(
    the("tiles"),
    tile("Next", schedule.next.length ? moment(schedule.next[0]) : NONE, schedule.paused_at ? ["paused since ", moment(schedule.paused_at)] : schedule.next.slice(1).map((at, place) => [place > 0 ? ", " : "then ", moment(at)])),
    tile("Last", schedule.last ? chip(schedule.last.outcome) : "not fired yet", schedule.last && moment(schedule.last.slot ?? schedule.last.created_at)),
    tile("If it was down", duration(schedule.catch_up_seconds), "a slot is still fired if it is at most this late"),
  );
  drawActions(
    [
      { title: "Run now", path: schedule.links.run, show: true, main: true, question: `Submit the jobs of ${schedule.name} now?`, yes: "Run now" },
      { title: "Pause", path: schedule.links.pause, show: !schedule.paused_at },
      { title: "Resume", path: schedule.links.resume, show: Boolean(schedule.paused_at) },
    ],
    () => {
      look.again();
      firings.again();
    },
  );
  say(the("submits"), JSON.stringify(schedule.submit, null, 2));
}

function drawFirings(page) {
  if (!page.data.length) {
    fill(the("slots"), h("p", { class: "muted" }, "No slot has been due yet. Run it now to see what it does."));
    return;
  }
  const rows = page.data.map((firing) =>
    [
      firing.slot ? moment(firing.slot) : ["by hand, ", moment(firing.created_at)],
      chip(firing.outcome),
      counted(firing.counts) || NONE,
      inWords(firing.message) ?? "",
      firing.ended_at ? duration(Math.round(between(firing.created_at, firing.ended_at))) : NONE,
      firing.batch_id ? h("a", { href: `/batches/${firing.batch_id}` }, "Batch") : "",
    ],
  );
  fill(the("slots"), table([["Slot"], ["Outcome"], ["Jobs"], ["Why"], ["Took", "number"], [""]], rows, "Slots, newest first"));
}

const look = live(path, draw, { every: 5, fail: missing("schedule") });
const firings = live(`${path}/firings?limit=100`, drawFirings, { every: 5 });
