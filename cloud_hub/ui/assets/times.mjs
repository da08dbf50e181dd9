// Writes <time datetime> in the viewer's zone and language. The server writes UTC, which stays as the title.
const language = document.documentElement.lang;
const full = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
const STEPS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];

export function ago(date, now = Date.now()) {
  const seconds = (date.getTime() - now) / 1000;
  const [unit, size] = STEPS.find(([, step]) => Math.abs(seconds) >= step) ?? STEPS.at(-1);
  return relative.format(Math.trunc(seconds / size), unit);
}

export function showTimes(root) {
  const now = Date.now();
  const times = root.matches?.("time") ? [root] : root.querySelectorAll("time[datetime]");
  for (const time of times) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    const text = time.dataset.style === "ago" ? ago(date, now) : full.format(date);
    if (time.textContent !== text) time.textContent = text;
    const title = `${full.format(date)} · ${date.toISOString()}`;
    if (time.title !== title) time.title = title;
  }
}
