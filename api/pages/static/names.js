// Names of jobs, for a reader who knows a part of one.

import { get } from "./api.js";
import { fill, h } from "./dom.js";

export const NEWEST = 100;

/** The names of the newest jobs that contain `part`, in capitals or not. A search has many trials, so they are left out. */
export async function namesWith(part) {
  const found = await get(`/v1/jobs?trials=false&limit=${NEWEST}`);
  const names = new Set(found.data.map((job) => job.name).filter(Boolean));
  return [...names].filter((name) => name.toLowerCase().includes(part.toLowerCase()));
}

/** Offers an input the names of the newest jobs, each time that the reader comes to it. */
export function suggestNames(input) {
  const offer = async () => fill(input.list, (await namesWith("")).map((name) => h("option", { value: name })));
  input.addEventListener("focus", () => offer().catch(() => {})); // without them the reader types a name
}
