// The models of the registry: which version is in production, and what the newest one came to.

import { h } from "./dom.js";
import { moment, NONE, number, words } from "./format.js";
import { list } from "./lists.js";
import { table } from "./tables.js";
import { aliases, judgedBy, verdict } from "./versions.js";

function line({ name, aliases: pointing, latest }) {
  const metric = judgedBy([latest]);
  return [
    h("a", { class: "name", href: `/models/${encodeURIComponent(name)}` }, name),
    pointing.production === undefined ? "no version" : `version ${pointing.production}`,
    [`version ${latest.version} `, aliases(latest)],
    metric ? h("div", {}, number(latest.metrics[metric]), h("small", { class: "below" }, words(metric))) : NONE,
    verdict(latest),
    moment(latest.created_at),
  ];
}

const TITLES = [["Model"], ["In production"], ["Newest"], ["Its value", "number"], ["What came of it"], ["Made"]];
list("/v1/models", (models) => table(TITLES, models.map(line), "Models by name"), { key: "name" });
