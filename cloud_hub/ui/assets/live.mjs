// One event stream for the page. An event names topics that changed: parts of the page with such a topic are asked for
// again. A part with a field that somebody types in waits. A hidden page has no stream. Without a stream (too many are
// open, or a proxy swallows it) the parts are asked for every 15 seconds.
const POLL_MS = 15_000;
const waiting = new Set();
let source = null, poll = 0;

function refresh(part) {
  const active = document.activeElement;
  if (part.contains(active) && active.matches("input, select, textarea")) { waiting.add(part); return; }
  waiting.delete(part);
  part.dispatchEvent(new CustomEvent("live", { bubbles: false }));
}

function refreshAll(topics) {
  for (const part of document.querySelectorAll("[data-live]")) if (!topics || topics.includes(part.dataset.live)) refresh(part);
  document.dispatchEvent(new CustomEvent("tidegate:changed", { detail: topics }));
}

function show(state) {
  const mark = document.getElementById("live");
  if (!mark) return;
  mark.dataset.state = state;
  const word = mark.querySelector(".word");
  word.textContent = state === "on" ? word.dataset.on : word.dataset.off;
}

function open(address) {
  source = new EventSource(address);
  source.addEventListener("open", () => { show("on"); clearInterval(poll); poll = 0; });
  source.addEventListener("changed", (event) => refreshAll(JSON.parse(event.data)));
  source.addEventListener("samples", (event) => document.dispatchEvent(new CustomEvent("tidegate:samples", { detail: JSON.parse(event.data) })));
  source.addEventListener("error", () => {
    show("off");
    if (!poll) poll = setInterval(() => { refreshAll(); if (source?.readyState === EventSource.CLOSED) { source.close(); open(address); } }, POLL_MS);
  });
}

function close() {
  source?.close();
  source = null;
  clearInterval(poll);
  poll = 0;
}

export function follow(address) {
  if (!address) return;
  const chart = document.querySelector("[data-chart]"); // a chart names the series whose samples it wants
  if (chart) {
    const device = new URL(chart.dataset.chart, location.href).pathname.split("/").at(-2);
    address += `&device=${device}&metric=${encodeURIComponent(chart.dataset.metric)}`;
  }
  open(address);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else if (!source) { open(address); refreshAll(); }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted && !source) { open(address); refreshAll(); } });
  document.addEventListener("focusout", () => setTimeout(() => { for (const part of [...waiting]) refresh(part); }, 200));
}
