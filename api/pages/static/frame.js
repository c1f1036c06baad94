// What every page has: the button for dark and light.

const THEMES = { auto: "Colours: system", dark: "Colours: dark", light: "Colours: light" };
const button = document.getElementById("theme");

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
