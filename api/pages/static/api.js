// Asking the service. An answer that is a problem (RFC 9457) becomes a Problem. Who has to sign in is led there.

import { session, signIn } from "./session.js";
import { inWords } from "./wording.js";

export class Problem extends Error {
  constructor(status, document) {
    super(inWords(document.detail) || document.title || `The service answered ${status}.`);
    this.status = status;
    this.code = document.code;
    /** What is wrong at which place: `{pointer, detail}` each. */
    this.errors = (document.errors ?? []).map((each) => ({ ...each, detail: inWords(each.detail) }));
  }
}

/** The service could not be reached, or broke off. */
export class Unreachable extends Error {}

/**
 * One request. `etag` is what was seen before: then the answer is null if nothing has changed.
 * Gives `{body, etag, again}`; `again` is in how many seconds the service wants to be asked again, or null.
 */
export async function ask(path, { method = "GET", json, headers = {}, etag, signal } = {}) {
  const sent = { accept: "application/json", ...headers };
  if (etag) sent["if-none-match"] = etag;
  if (json !== undefined) sent["content-type"] ??= "application/json";
  const changes = method !== "GET";
  const token = changes && (await session())?.csrf_token;
  if (token) sent["x-csrf-token"] = token;
  let answer;
  let text;
  try {
    const body = json === undefined ? undefined : typeof json === "string" ? json : JSON.stringify(json);
    answer = await fetch(path, { method, headers: sent, body, signal, cache: "no-store", credentials: "same-origin" });
    if (answer.status === 304) return null;
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The service does not answer.");
  }
  let body = text;
  if ((answer.headers.get("content-type") ?? "").includes("json")) {
    try {
      body = JSON.parse(text);
    } catch {
      throw new Unreachable("The answer broke off.");
    }
  }
  if (answer.status === 401) signIn();
  if (answer.status === 403 && changes) session({ anew: true });
  if (!answer.ok) throw new Problem(answer.status, typeof body === "object" ? body : { title: answer.statusText });
  const again = answer.headers.get("retry-after");
  return { body, etag: answer.headers.get("etag"), again: again === null ? null : Number(again) };
}

export async function get(path, options) {
  return (await ask(path, options)).body;
}

export async function post(path, json, options) {
  return (await ask(path, { ...options, method: "POST", json })).body;
}

/** All pages of a list, at most `most` items. `key` is the field that names an item for `after`. */
export async function all(path, { key = "id", limit = 1000, most = 100000, after = "" } = {}) {
  const found = [];
  let last = after;
  for (;;) {
    const url = new URL(path, location.origin);
    url.searchParams.set("limit", limit);
    if (last !== "") url.searchParams.set("after", last);
    const page = await get(url.pathname + url.search);
    found.push(...page.data);
    if (!page.has_more || !page.data.length || found.length >= most) return found;
    last = page.data.at(-1)[key];
  }
}
