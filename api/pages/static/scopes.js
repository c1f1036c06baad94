// What the reader's API key may do. What it may not is not offered.

import { get } from "./api.js";

export const Scope = { READ: "read", PREDICT: "predict", SUBMIT: "submit", ADMIN: "admin" };

let asked = null;

export async function may(scope) {
  asked ??= get("/v1/whoami").catch(() => {
    asked = null;
    return { scopes: [] };
  });
  return (await asked).scopes.includes(scope);
}
