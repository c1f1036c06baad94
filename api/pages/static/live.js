// Keeps a page up to date. It asks again and again while the page is seen, which is cheap: the service answers 304 when
// nothing has changed. A page that comes back into view asks at once.

import { ask, Problem } from "./api.js";
import { the } from "./dom.js";

const SLOWEST_SECONDS = 10;

/**
 * Calls `show(document)` with the answer of `GET path`, at once and after each change.
 *
 * path     an address, or a function that gives the present one; null means nothing to ask now
 * every    seconds between two looks, if the service names none
 * until    given a document, says whether it is the last one
 * fail     gets a Problem, such as 404; then nothing more is asked, unless it was a passing one
 *
 * Gives `{again(), stop()}`: show it anew at once, look no more.
 */
export function live(path, show, { every = 2, until = () => false, fail = () => {} } = {}) {
  let timer = null;
  let busy = null;
  let stopped = false;
  let ended = false;
  let failures = 0;
  let seen = { path: null, etag: null, text: null };

  async function look() {
    clearTimeout(timer);
    const address = typeof path === "function" ? path() : path;
    if (stopped || document.hidden || address === null) return;
    if (address !== seen.path) seen = { path: address, etag: null, text: null };
    busy?.abort();
    const mine = (busy = new AbortController());
    let wait = every;
    try {
      const answer = await ask(address, { etag: seen.etag, signal: mine.signal });
      if (stopped || mine.signal.aborted) return;
      connected(look, true);
      failures = 0;
      if (answer !== null) {
        wait = answer.again ?? every;
        seen.etag = answer.etag;
        const text = JSON.stringify(answer.body);
        if (text !== seen.text) {
          seen.text = text;
          show(answer.body);
        }
        ended = until(answer.body);
        if (ended) return;
      }
    } catch (error) {
      if (error.name === "AbortError" || stopped) return;
      if (error instanceof Problem && error.status < 500 && error.status !== 429) {
        fail(error);
        return;
      }
      if (!(error instanceof Problem) && error.constructor.name !== "Unreachable") throw error;
      failures += 1;
      wait = Math.min(2 ** failures / 2, SLOWEST_SECONDS);
      connected(look, false);
    } finally {
      if (busy === mine) busy = null;
    }
    timer = setTimeout(look, wait * 1000);
  }

  function seenAgain() {
    if (document.hidden) clearTimeout(timer);
    else if (!ended) look();
  }

  document.addEventListener("visibilitychange", seenAgain);
  look();
  return {
    again() {
      ended = false;
      seen = { path: null, etag: null, text: null };
      return look();
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
      busy?.abort();
      connected(look, true);
      document.removeEventListener("visibilitychange", seenAgain);
    },
  };
}

const broken = new Set();

/** Says at the foot of the page that the service does not answer, as long as a look of anybody fails. */
function connected(who, is) {
  if (is) broken.delete(who);
  else broken.add(who);
  const notice = the("connection");
  notice.hidden = broken.size === 0;
  notice.textContent = broken.size === 0 ? "" : "The service does not answer. This page asks it again and shows what it last heard.";
}
