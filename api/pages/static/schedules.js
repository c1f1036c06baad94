// The schedules by name: when each is due, and what came of its last slot.

import { h } from "./dom.js";
import { moment, NONE } from "./format.js";
import { list } from "./lists.js";
import { chip } from "./resource.js";
import { table } from "./tables.js";

function line(schedule) {
  const { last } = schedule;
  return [
    h("a", { class: "name", href: `/schedules/${encodeURIComponent(schedule.name)}` }, schedule.name),
    h("div", {}, h("code", {}, schedule.cron), h("small", { class: "below" }, schedule.time_zone)),
    schedule.paused_at ? ["paused since ", moment(schedule.paused_at)] : moment(schedule.next[0]),
    last ? [chip(last.outcome, last.message), " ", moment(last.slot ?? last.created_at)] : "not fired yet",
    last?.batch_id ? h("a", { href: `/batches/${last.batch_id}` }, "its batch") : NONE,
  ];
}

const TITLES = [["Schedule"], ["When"], ["Next"], ["Last"], ["Came of it"]];
list("/v1/schedules", (schedules) => table(TITLES, schedules.map(line), "Schedules by name"), { key: "name" });
