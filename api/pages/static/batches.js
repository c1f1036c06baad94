// The batches, newest first.

import { h } from "./dom.js";
import { moment, NONE, number } from "./format.js";
import { list } from "./lists.js";
import { chip, counted } from "./resource.js";
import { table } from "./tables.js";

function line(batch) {
  return [
    h("a", { class: "name", href: `/batches/${batch.id}` }, batch.name ?? batch.id),
    chip(batch.status),
    number(batch.total),
    counted(batch.counts),
    batch.varied.join(", ") || NONE,
    moment(batch.created_at),
    moment(batch.ended_at),
  ];
}

const TITLES = [["Batch"], ["State"], ["Jobs", "number"], ["Their states"], ["Varies"], ["Submitted"], ["Ended"]];
list("/v1/batches", (batches) => table(TITLES, batches.map(line), "Batches, newest first"));
