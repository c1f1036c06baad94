// What every page has: the button for dark and light, and the one to sign out.

import { ask } from "./api.js";
import { say, the } from "./dom.js";
import { may, session, signIn } from "./session.js";

const THEMES = { auto: "Colours: system", dark: "Colours: dark", light: "Colours: light" };
const button = the("theme");

function chosen() {
  return document.documentElement.dataset.theme ?? "auto";
}

function choose(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("loopline.theme", theme);
  } catch {
    // it holds for this page then
  }
  button.textContent = THEMES[theme];
  document.dispatchEvent(new Event("themechange"));
}

button.textContent = THEMES[chosen()];
button.hidden = false;
button.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  choose(names[(names.indexOf(chosen()) + 1) % names.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.dispatchEvent(new Event("themechange"));
});

/** What only some keys may do is hidden in a template, with the scope that it needs as `data-scope`. */
async function drawSession() {
  for (const element of document.querySelectorAll("[data-scope]")) element.hidden = !(await may(element.dataset.scope));
  const found = await session();
  if (!found?.signed_in) return;
  the("session").hidden = false;
  say(the("tenant"), found.tenant);
}

the("sign-out").addEventListener("click", async () => {
  await ask("/v1/session", { method: "DELETE" });
  signIn();
});
drawSession();
document.querySelector(".frame [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone the menu is wider
