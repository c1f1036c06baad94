// Who the reader is: what the API key may do, and the token that goes with each change. What a key may not is not offered.

export const Scope = { READ: "read", PREDICT: "predict", SUBMIT: "submit", ADMIN: "admin" };

const SIGN_IN = "/sign-in";
let asked = null;

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

/** Leads to the page that asks for a key, and back to this one. */
export function signIn() {
  if (location.pathname === SIGN_IN) return;
  location.assign(`${SIGN_IN}?to=${encodeURIComponent(location.pathname + location.search + location.hash)}`);
}
