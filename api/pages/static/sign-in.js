// Signs in with an API key, which becomes a cookie that no script can read.

import { ask, Problem } from "./api.js";
import { say, the } from "./dom.js";

/** Where the reader came from: a page of this service, and nothing else. */
function back() {
  const to = new URLSearchParams(location.search).get("to") ?? "/jobs";
  const url = new URL(to, location.origin);
  return to.startsWith("/") && url.origin === location.origin ? url.href : "/jobs";
}

async function signIn(event) {
  event.preventDefault();
  const problem = the("problem");
  problem.hidden = true;
  the("submit").disabled = true;
  try {
    await ask("/v1/session", { method: "POST", json: { key: the("key").value.trim() } });
    location.replace(back());
  } catch (error) {
    problem.hidden = false;
    say(problem, error instanceof Problem && error.status === 401 ? "This is no valid key. It may have been revoked, or have expired." : error.message);
    the("key").focus();
  } finally {
    the("submit").disabled = false;
  }
}

the("form").addEventListener("submit", signIn);
