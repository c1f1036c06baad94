// Tables that become cards on a phone: each cell then stands under its title.

import { h } from "./dom.js";

/**
 * A table. `titles` are `[text, class]`; `rows` are lists with what is in each cell. The roles are written out, because
 * a table that is laid out as cards would lose its own.
 */
export function table(titles, rows) {
  const head = titles.map(([title, kind]) => (title ? h("th", { role: "columnheader", class: kind }, title) : h("td", { role: "cell" })));
  const body = rows.map((cells) =>
    h("tr", { role: "row" }, cells.map((cell, index) => h("td", { role: "cell", class: titles[index][1], "data-title": titles[index][0] || null }, cell))),
  );
  return h("table", { role: "table", class: "stacking" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, body));
}
