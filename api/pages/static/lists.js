// A list of what there is: the newest page is asked for again and again, older ones on demand.

import { get } from "./api.js";
import { fill, problem, the } from "./dom.js";
import { live } from "./live.js";

const PAGE = 50;
const EVERY_SECONDS = 5;

/**
 * Fills `items` with what `write(items)` makes of the items of `GET path`, which may have filters. Without any, `empty`
 * is shown. `key` is the field that names an item for `after`.
 */
export function list(path, write, { key = "id" } = {}) {
  let newest = [];
  let older = [];
  let more = false;
  const page = `${path}${path.includes("?") ? "&" : "?"}limit=${PAGE}`;
  const button = the("more").querySelector("button");

  function draw() {
    the("list").hidden = newest.length === 0;
    the("empty").hidden = newest.length > 0;
    the("more").hidden = !more;
    if (newest.length) fill(the("items"), write([...newest, ...older]));
  }

  live(
    page,
    (found) => {
      problem(the("problem"), null);
      newest = found.data;
      const known = new Set(newest.map((each) => each[key]));
      older = older.filter((each) => !known.has(each[key])); // what was new before moves down
      if (!older.length) more = found.has_more;
      draw();
    },
    { every: EVERY_SECONDS, fail: (error) => problem(the("problem"), error) },
  );

  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const found = await get(`${page}&${new URLSearchParams({ after: [...newest, ...older].at(-1)[key] })}`);
      older.push(...found.data);
      more = found.has_more;
      draw();
    } catch (error) {
      problem(the("problem"), error);
    } finally {
      button.disabled = false;
    }
  });
}
