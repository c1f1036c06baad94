// Tables that become cards on a phone: each cell then stands under its title.

import { h } from "./dom.js";

/**
 * A table. `titles` are `[text, class]`; `rows` are lists with what is in each cell. The roles are written out, because
 * a table that is laid out as cards would lose its own. `label` is what it shows, for those who do not see it.
 */
export function table(titles, rows, label = null) {
  const head = titles.map(([title, kind]) => (title ? h("th", { role: "columnheader", class: kind }, title) : h("td", { role: "cell" })));
  const body = rows.map((cells) =>
    h("tr", { role: "row" }, cells.map((cell, index) => h("td", { role: "cell", class: titles[index][1], "data-title": titles[index][0] || null }, cell))),
  );
  return h("table", { role: "table", class: "stacking", "aria-label": label }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), h("tbody", { role: "rowgroup" }, body));
}

/**
 * Draws a table in `parent` that a press on a title sorts.
 *
 * columns   `{key, title, number, of, write}` each: `of(item)` is what it sorts by, `write(item)` is what is shown
 * sort      `{key, down}`; it is changed
 */
export function sortable(parent, columns, items, sort, label) {
  const by = columns.find((column) => column.key === sort.key);
  const rows = by ? [...items].sort((a, b) => order(by.of(a), by.of(b)) * (sort.down ? -1 : 1)) : items;
  const head = columns.map((column) => {
    const sorted = column.key === sort.key ? (sort.down ? "descending" : "ascending") : null;
    const press = () => {
      Object.assign(sort, { key: column.key, down: column.key === sort.key && !sort.down });
      sortable(parent, columns, items, sort, label);
      parent.querySelector(`[data-key="${CSS.escape(column.key)}"]`).focus();
    };
    const sign = sorted === null ? "" : sort.down ? " ↓" : " ↑";
    return h("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": sorted }, h("button", { type: "button", "data-key": column.key, onclick: press }, column.title + sign));
  });
  const body = rows.map((item) => h("tr", {}, columns.map((column) => h("td", { class: column.number ? "number" : null }, column.write(item)))));
  const made = h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  if (parent.dataset.written === made.textContent) return; // a reader or a selection is not disturbed
  parent.dataset.written = made.textContent;
  parent.replaceChildren(made);
}

/** What is not there comes last, in both directions as far as one can: it is neither small nor large. */
function order(a, b) {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
  if (b === null || b === undefined) return -1;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}
