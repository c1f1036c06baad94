// Runs before the page is drawn, so that it is not drawn in the wrong colours first. `auto` follows the system.
"use strict";
(() => {
  let chosen = "auto";
  try {
    chosen = localStorage.getItem("loopline.theme") || "auto";
  } catch {
    // a browser that keeps nothing
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
