// A chart of one series with its band, limits and alarms. uPlot draws; drag to zoom, which asks for a finer resolution.
const box = document.querySelector("[data-chart]"), note = box?.querySelector(".chart-note"), place = box?.querySelector(".chart");
const style = () => getComputedStyle(document.documentElement);
const colour = (name) => style().getPropertyValue(`--${name}`).trim();
const HEIGHT = 300, MOST = 20_000, REFRESH_MS = 15_000;
// Times of the axis in 24 hours: [step, format, and what stands below where a day or a year begins].
const DAY = "\n{YYYY}-{MM}-{DD}", YEAR = "\n{YYYY}";
const CLOCK = [
  [31_536_000, "{YYYY}", null, null, null, null, null, null, 1], [2_419_200, "{MMM}", YEAR, null, null, null, null, null, 1],
  [86_400, "{MM}-{DD}", YEAR, null, null, null, null, null, 1], [60, "{HH}:{mm}", DAY, null, DAY, null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", DAY, null, DAY, null, null, null, 1], [0.001, "{HH}:{mm}:{ss}.{fff}", DAY, null, DAY, null, null, null, 1],
];
let plot = null, data = null, zoomed = false, loadedAt = 0, again = 0;

function limits() {
  const around = Number(box.dataset.around);
  return around ? { start_us: (around - 1800) * 1e6, end_us: Math.min(Date.now() / 1000 + 1, around + 1800) * 1e6 } : { span: box.dataset.span };
}

async function load(wanted, byItself = false) {
  const parameters = new URLSearchParams({ metric: box.dataset.metric });
  for (const [name, value] of Object.entries(wanted)) parameters.set(name, typeof value === "number" ? String(Math.round(value)) : value);
  const answer = await fetch(`${box.dataset.chart}?${parameters}`, { headers: byItself ? { "X-Live": "1" } : {} }).catch(() => null);
  if (answer?.status === 401) { location.reload(); return; }
  if (!answer?.ok) { note.textContent = box.dataset.failed; return; }
  data = await answer.json();
  loadedAt = Date.now();
  draw();
}

function text(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

// Alarms stand behind the series as bands from raised to cleared.
function alarmBands(u) {
  const { ctx, bbox } = u;
  ctx.save();
  for (const alarm of data.alarms) {
    const left = Math.max(bbox.left, u.valToPos(alarm.start_s, "x", true));
    const right = Math.min(bbox.left + bbox.width, u.valToPos(alarm.end_s ?? data.end_s, "x", true));
    if (right < bbox.left || left > bbox.left + bbox.width) continue;
    ctx.globalAlpha = 0.14;
    ctx.fillStyle = colour(alarm.priority);
    ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    ctx.globalAlpha = 1;
    ctx.fillRect(left, bbox.top, 2, bbox.height);
  }
  ctx.restore();
}

function options() {
  const axis = { stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid") }, font: "12px system-ui, sans-serif" };
  const value = (u, number) => number == null ? "–" : `${Number(number.toPrecision(6))} ${box.dataset.unit}`.trim();
  const line = (label, more) => ({ label, value, points: { show: false }, spanGaps: false, ...more });
  const limit = { stroke: colour("limit"), width: 1.5, dash: [6, 4] };
  const raw = data.resolution === "raw";
  return {
    width: place.clientWidth, height: HEIGHT, cursor: { drag: { x: true, y: false, uni: 20 } }, legend: { live: true },
    scales: { x: { time: true, range: () => [data.start_s, data.end_s] } },
    axes: [{ ...axis, values: CLOCK }, { ...axis, size: 64 }],
    series: [{ label: box.dataset.time, value: (u, s) => s == null ? "–" : new Date(s * 1000).toLocaleString(document.documentElement.lang) },
      line(box.dataset.mean, { stroke: colour("series"), width: 1.75, points: { show: raw && data.t.length < 60, size: 4, fill: colour("series") } }),
      ...(raw ? [] : [line(`${box.dataset.range} ↓`, { stroke: "transparent" }), line(`${box.dataset.range} ↑`, { stroke: "transparent" })]),
      line(box.dataset.low, limit), line(box.dataset.high, limit)],
    bands: raw ? [] : [{ series: [3, 2], fill: colour("band") }],
    hooks: { drawClear: [alarmBands], setSelect: [zoom] },
  };
}

function zoom(u) {
  if (u.select.width < 5) return;
  const start = u.posToVal(u.select.left, "x"), end = u.posToVal(u.select.left + u.select.width, "x");
  zoomed = true;
  load({ start_us: start * 1e6, end_us: Math.max(end, start + 1) * 1e6 });
}

// Samples have no range: their lowest and highest values are the values themselves.
function shownColumns() {
  const range = data.resolution === "raw" ? [] : [data.low, data.high];
  return [data.t, data.mean, ...range, data.limit_low, data.limit_high];
}

function draw() {
  const columns = shownColumns();
  plot?.destroy();
  plot = null;
  if (data.t.length) {
    plot = new uPlot(options(), columns, place);
    plot.over.addEventListener("dblclick", () => { zoomed = false; load(limits()); });
  }
  place.setAttribute("aria-label", `${box.dataset.metric}: ${data.t.length} (${data.resolution})`);
  note.textContent = data.t.length ? text(box.dataset.resolution, { name: data.resolution, count: data.t.length.toLocaleString(document.documentElement.lang) }) : box.dataset.empty;
  box.dataset.points = data.t.length;
  box.dataset.newest = data.t.at(-1) ?? 0;
  box.dataset.limit = data.limit_high.findLast((one) => one != null) ?? "";
}

// New samples are added where the chart shows samples up to now; rollups are asked for again.
document.addEventListener("tidegate:samples", (event) => {
  if (!data || zoomed || box.dataset.around) return;
  if (data.resolution !== "raw") {
    clearTimeout(again);
    again = setTimeout(() => load(limits(), true), Math.max(0, loadedAt + REFRESH_MS - Date.now()));
    return;
  }
  const last = data.t.at(-1) ?? -Infinity, { t, v } = event.detail, width = data.end_s - data.start_s;
  const first = data.t.length === 0;
  for (let at = 0; at < t.length; at++) {
    if (t[at] <= last) continue;
    data.t.push(t[at]);
    for (const column of [data.mean, data.low, data.high]) column.push(v[at]);
    for (const column of [data.limit_low, data.limit_high]) column.push(column.at(-1) ?? null);
  }
  data.end_s = Math.max(data.end_s, Date.now() / 1000);
  data.start_s = data.end_s - width;
  const columns = [data.t, data.mean, data.low, data.high, data.limit_low, data.limit_high];
  const cut = Math.max(data.t.length - MOST, data.t.findIndex((one) => one >= data.start_s), 0);
  if (cut) for (const column of columns) column.splice(0, cut);
  if (first || !plot) draw(); else plot.setData(shownColumns());
  box.dataset.points = data.t.length;
  box.dataset.newest = data.t.at(-1) ?? 0;
});

if (box) {
  new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => data && draw());
  for (const select of document.querySelectorAll("#series select")) select.addEventListener("change", () => select.form.requestSubmit());
  load(limits());
}
