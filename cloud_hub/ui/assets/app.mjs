// What every page has: times in the viewer's zone, and the parts that follow the hub's event stream.
import { showTimes } from "./times.mjs";
import { follow } from "./live.mjs";

showTimes(document);
setInterval(() => showTimes(document), 15_000);
new MutationObserver((changes) => {
  for (const change of changes) {
    if (change.type === "characterData") { if (change.target.parentElement) showTimes(change.target.parentElement); continue; }
    for (const node of change.addedNodes) if (node.nodeType === 1) showTimes(node);
  }
}).observe(document.body, { childList: true, characterData: true, subtree: true });

// A menu closes by Escape and by a click beside it.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll(".menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});

// The evidence that a claim cites is given the focus, so that the next Tab goes on from there.
document.addEventListener("click", (event) => {
  const cite = event.target.closest("a.cite");
  if (cite) document.getElementById(cite.hash.slice(1))?.focus({ preventScroll: true });
});

follow(document.body.dataset.stream);
