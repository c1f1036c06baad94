// Who the reader is: what the API key may do, and the token that goes with each change. What a key may not is not offered.

export const Scope = { READ: "read", PREDICT: "predict", SUBMIT: "submit", ADMIN: "admin" };

const SIGN_IN = "/sign-in";
let asked = null;
let leaving = false;

/** What `GET /v1/session` answers; null for somebody who has to sign in. It is asked once. */
export function session({ anew = false } = {}) {
  if (anew) asked = null;
  asked ??= fetch("/v1/session", { cache: "no-store", credentials: "same-origin" }).then(
    (answer) => (answer.ok ? answer.json() : forgotten(answer.status === 401 ? null : undefined)),
    () => forgotten(undefined),
  );
  return asked;
}

/** The next one asks again. */
function forgotten(answer) {
  asked = null;
  return answer;
}

export async function may(scope) {
  return (await session())?.scopes.includes(scope) ?? false;
}

/** Leads to the page that asks for a key, and back to this one. Several requests may ask for it at once. */
export function signIn() {
  if (leaving || location.pathname === SIGN_IN) return;
  leaving = true;
  location.assign(`${SIGN_IN}?to=${encodeURIComponent(location.pathname + location.search + location.hash)}`);
}

addEventListener("pageshow", () => {
  leaving = false; // the browser has brought the page back
});
