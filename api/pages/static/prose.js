// Text that the service has rendered from Markdown, taken over into a page element by element: only what text is made
// of comes along, with links and pictures from here.

import { Problem } from "./api.js";

const TAGS = new Set("H1 H2 H3 H4 H5 H6 P UL OL LI TABLE THEAD TBODY TR TH TD CODE PRE EM STRONG BLOCKQUOTE HR BR DIV A IMG".split(" "));
const PICTURE = /^\/v1\/jobs\/job_[0-9a-z]{26}\/model\/[a-z]+\.svg$/;

/** Fills `element` with the text of a page. Raises Problem if there is no such page. */
export async function prose(element, address) {
  const answer = await fetch(address, { credentials: "same-origin" });
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  element.replaceChildren(...[...page.querySelector("article").childNodes].flatMap(taken));
}

function taken(node) {
  if (node.nodeType === Node.TEXT_NODE) return [document.createTextNode(node.data)];
  if (!TAGS.has(node.tagName)) return [];
  const copy = document.createElement(node.tagName);
  if (node.tagName === "A" && /^(https?:\/\/|\/|#)/.test(node.getAttribute("href") ?? "")) copy.href = node.getAttribute("href");
  if (node.tagName === "IMG") {
    if (!PICTURE.test(node.getAttribute("src") ?? "")) return [];
    copy.src = node.getAttribute("src");
    copy.alt = node.getAttribute("alt") ?? "";
  }
  if (node.classList.contains("number")) copy.className = "number";
  if (node.classList.contains("wide")) copy.className = "wide";
  copy.append(...[...node.childNodes].flatMap(taken));
  return [copy];
}
