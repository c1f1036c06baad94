// Keeps a page up to date: with a stream of the service where there is one, and else by asking again and again, which is
// cheap, because the service answers 304 when nothing has changed. A page that is out of view does neither, and catches up
// when it comes back into view.

import { ask, Problem } from "./api.js";
import { the } from "./dom.js";

const SLOWEST_SECONDS = 10;
const PATIENCE_SECONDS = 4; // a stream that breaks off comes back after two
const AGAIN_SECONDS = 30; // a stream that the service refuses is tried again

/**
 * Calls `show(document)` with the answer of `GET path`, at once and after each change.
 *
 * path     an address, or a function that gives the present one; null means nothing to ask now
 * every    seconds between two looks, if the service names none
 * until    given a document, says whether it is the last one
 * fail     gets a Problem, such as 404; then nothing more is asked, unless it was a passing one
 *
 * Gives `{again(), hold(whether), stop()}`: show it anew at once, do not look as long as a stream says the same, look no
 * more.
 */
export function live(path, show, { every = 2, until = () => false, fail = () => {} } = {}) {
  let timer = null;
  let busy = null;
  let stopped = false;
  let held = false;
  let ended = false;
  let failures = 0;
  let seen = { path: null, etag: null, text: null };

  async function look() {
    clearTimeout(timer);
    const address = typeof path === "function" ? path() : path;
    if (stopped || held || document.hidden || address === null) return;
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

  function hold(whether) {
    if (held === whether) return;
    held = whether;
    clearTimeout(timer);
    if (held) {
      busy?.abort();
      connected(look, true);
    } else if (!ended) {
      look();
    }
  }

  document.addEventListener("visibilitychange", seenAgain);
  look();
  return {
    again() {
      ended = false;
      seen = { path: null, etag: null, text: null };
      return look();
    },
    hold,
    stop() {
      stopped = true;
      clearTimeout(timer);
      busy?.abort();
      connected(look, true);
      document.removeEventListener("visibilitychange", seenAgain);
    },
  };
}

/**
 * Follows a stream of server-sent events. `address` gives where it goes on from what the page has; `heard` has a function
 * for each name of an event, which gets its data. `holds(true)` is called when the stream is open, and `holds(false)` when
 * the page has to ask instead. An event named `end` is the last one.
 *
 * A browser opens few connections to one server, so a page out of view holds none.
 */
export function stream(address, heard, { holds = () => {} } = {}) {
  let source = null;
  let timer = null;
  let ended = false;

  function open() {
    clearTimeout(timer);
    if (ended || source || document.hidden) return;
    const mine = (source = new EventSource(address()));
    mine.addEventListener("open", () => {
      clearTimeout(timer);
      connected(open, true);
      holds(true);
    });
    mine.addEventListener("error", () => {
      if (mine !== source) return;
      clearTimeout(timer);
      if (mine.readyState === EventSource.CLOSED) {
        drop(); // there are too many, or the reader may not
        timer = setTimeout(open, AGAIN_SECONDS * 1000);
      } else {
        timer = setTimeout(() => connected(open, false), PATIENCE_SECONDS * 1000);
      }
    });
    for (const [name, take] of Object.entries(heard)) {
      mine.addEventListener(name, (event) => {
        if (mine !== source) return;
        if (name === "end") stop();
        take(JSON.parse(event.data));
      });
    }
  }

  function drop() {
    source?.close();
    source = null;
    connected(open, true);
    holds(false);
  }

  function stop() {
    ended = true;
    clearTimeout(timer);
    drop();
    document.removeEventListener("visibilitychange", seen);
  }

  function seen() {
    if (document.hidden) {
      clearTimeout(timer);
      drop();
    } else {
      open();
    }
  }

  document.addEventListener("visibilitychange", seen);
  open();
  return { stop };
}

/** Calls `draw` soon, and not more often than every so many milliseconds, however often it is wanted. */
export function paced(draw, milliseconds = 200) {
  let last = -Infinity;
  let timer = null;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      draw();
    }, Math.max(0, last + milliseconds - performance.now()));
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
