// A virtual list: the rows come as columns, and only those in view stand in the page. Rows are links, so that Tab,
// Enter and a middle click work; Up, Down, PageUp, PageDown, Home and End move through all of them.
import { ago } from "./times.mjs";

const ROW_PX = 36, SPARE = 8, MOST_PX = 15_000_000, REFRESH_MS = 10_000;
const PRIORITIES = ["low", "medium", "high", "critical"];
const grid = document.getElementById("grid"), viewport = document.getElementById("viewport"), spacer = document.getElementById("spacer");
const form = document.getElementById("filters"), count = document.getElementById("count"), head = document.getElementById("head");
let columns = null, order = [], sort = { by: "id", down: false }, asked = 0, loadedAt = 0, again = 0, drawn = "", typing = 0;

function cell(name, content) {
  const span = document.createElement("span");
  span.className = `c-${name}`;
  span.setAttribute("role", "cell");
  if (typeof content === "string") { span.textContent = content; span.title = content; } else span.append(content);
  return span;
}

function mark(kind, text) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}

function state(value) {
  const span = mark(`state s-${value}`, "");
  span.append(mark("dot", ""), grid.dataset[value] ?? value);
  return span;
}

function alarms(index) {
  if (!columns.alarms[index]) return "";
  const span = document.createElement("span"), priority = columns.priority[index];
  span.append(mark(`badge p-${priority}`, grid.dataset[`p${priority[0].toUpperCase()}${priority.slice(1)}`] ?? priority), ` ${columns.alarms[index]}`);
  return span;
}

function row(place) {
  const index = order[place], line = document.createElement("div"), link = document.createElement("a");
  line.className = "grid-row";
  line.setAttribute("role", "row");
  line.setAttribute("aria-rowindex", place + 2);
  line.style.top = `${place * ROW_PX}px`;
  link.href = `devices/${encodeURIComponent(columns.id[index])}`;
  link.textContent = columns.id[index];
  link.title = columns.id[index];
  link.dataset.place = place;
  const seen = columns.seen_us[index] ? ago(new Date(columns.seen_us[index] / 1000)) : "–";
  line.append(cell("id", link), cell("state", state(columns.state[index])), cell("alarms", alarms(index)), cell("path", columns.path[index] || "–"),
    cell("tags", columns.tags[index]), cell("profile", columns.profile[index]), cell("seen_us", seen));
  return line;
}

function draw() {
  if (!columns) return;
  const first = Math.max(0, Math.floor(viewport.scrollTop / ROW_PX) - SPARE);
  const last = Math.min(order.length, Math.ceil((viewport.scrollTop + viewport.clientHeight) / ROW_PX) + SPARE);
  const now = `${first} ${last} ${loadedAt} ${sort.by} ${sort.down}`;
  if (now === drawn) return;
  drawn = now;
  const place = document.activeElement?.dataset?.place;
  const rows = [];
  for (let at = first; at < last; at++) rows.push(row(at));
  spacer.replaceChildren(...rows);
  if (place !== undefined) (spacer.querySelector(`[data-place="${place}"]`) ?? viewport).focus({ preventScroll: true });
}

function arrange() {
  const { by, down } = sort, column = columns[by];
  const rank = (index) => by === "alarms" ? PRIORITIES.indexOf(columns.priority[index]) * 1e6 + columns.alarms[index] : column[index];
  order = columns.id.map((_, index) => index);
  if (by !== "id" || down) order.sort((a, b) => { const x = rank(a), y = rank(b); return (x < y ? -1 : x > y ? 1 : a - b) * (down ? -1 : 1); });
  spacer.style.height = `${Math.min(order.length * ROW_PX, MOST_PX)}px`;
  grid.setAttribute("aria-rowcount", order.length + 1);
  for (const header of head.children) header.setAttribute("aria-sort", header.classList.contains(`c-${by}`) ? (down ? "descending" : "ascending") : "none");
  draw();
}

function told(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => Number(values[name] ?? 0).toLocaleString(document.documentElement.lang));
}

async function load(byItself) {
  const number = ++asked, parameters = new URLSearchParams(new FormData(form));
  const answer = await fetch(`${grid.dataset.href}?${parameters}`, { headers: byItself ? { "X-Live": "1" } : {} }).catch(() => null);
  if (number !== asked) return;
  if (answer?.status === 401) { location.reload(); return; }
  if (!answer?.ok) {
    const page = answer ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    count.textContent = page?.querySelector("main .card p")?.textContent ?? count.dataset.failed;
    count.classList.add("bad-text");
    return;
  }
  count.classList.remove("bad-text");
  columns = await answer.json();
  loadedAt = Date.now();
  arrange();
  count.textContent = columns.total ? told(count.dataset.text, { shown: columns.id.length, total: columns.total }) : count.dataset.none;
  if (columns.left_out) count.textContent += ` ${told(count.dataset.leftOut, { count: columns.left_out })}`;
}

function address() {
  const parameters = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...parameters]) if (!value) parameters.delete(name);
  const query = parameters.toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); viewport.scrollTop = 0; address(); load(false); });
form.elements.text.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { viewport.scrollTop = 0; address(); load(false); }, 250); });
head.addEventListener("click", (event) => {
  const by = event.target.dataset?.sort;
  if (!by || !columns) return;
  sort = { by, down: sort.by === by ? !sort.down : by === "alarms" || by === "seen_us" };
  arrange();
});
viewport.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
new ResizeObserver(draw).observe(viewport);
viewport.addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor(viewport.clientHeight / ROW_PX) - 1), place = Number(document.activeElement?.dataset?.place ?? -1);
  const move = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (move === undefined || !order.length) return;
  event.preventDefault();
  const next = Math.min(order.length - 1, Math.max(0, place + move)), top = next * ROW_PX;
  if (top < viewport.scrollTop) viewport.scrollTop = top;
  if (top + ROW_PX > viewport.scrollTop + viewport.clientHeight) viewport.scrollTop = top + ROW_PX - viewport.clientHeight;
  drawn = "";
  draw();
  spacer.querySelector(`[data-place="${next}"]`)?.focus({ preventScroll: true });
});
document.addEventListener("tidegate:changed", (event) => {
  if (event.detail && !event.detail.includes("devices")) return;
  clearTimeout(again);
  again = setTimeout(() => load(true), Math.max(0, loadedAt + REFRESH_MS - Date.now()));
});
load(false);
