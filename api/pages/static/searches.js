// The searches, newest first.

import { h } from "./dom.js";
import { moment, number, words } from "./format.js";
import { list } from "./lists.js";
import { chip, counted } from "./resource.js";
import { table } from "./tables.js";

function line(search) {
  return [
    h("a", { class: "name", href: `/searches/${search.id}` }, search.name ?? search.id),
    chip(search.status, search.message),
    `${number(search.made)} of ${number(search.wanted)}`,
    counted(search.counts),
    words(search.settings.metric),
    number(Object.keys(search.settings.space).length),
    moment(search.created_at),
  ];
}

const TITLES = [["Search"], ["State"], ["Trials", "number"], ["Their states"], ["Compares by"], ["Fields", "number"], ["Submitted"]];
list("/v1/searches", (searches) => table(TITLES, searches.map(line), "Searches, newest first"));
