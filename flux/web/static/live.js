// The list of executions as it grows, and ranges chosen in its chart.
import { keys, say } from "./frame.js";

const ROWS_MAX = 500;
const live = document.getElementById("live");
const table = document.querySelector("#executions tbody");
const template = document.getElementById("row");
let isPaused = false;
const waiting = [];

function tell(state, word) {
  live.dataset.state = state;
  document.getElementById("live-word").textContent = word;
}

function makeRow(told) {
  const row = template.content.querySelector("tr").cloneNode(true);
  row.dataset.name = told.name;
  row.dataset.at = told.at;
  if (told.failed) { row.dataset.failed = ""; }
  for (const place of row.querySelectorAll("[data-field]")) {
    place.textContent = told[place.dataset.field];
  }
  if (told.error) { row.querySelector("[data-field=error]").textContent = `${told.failed ? "✗" : "·"} ${told.error}`; }
  row.querySelector("a").setAttribute("href", told.href);
  row.querySelector("time").setAttribute("datetime", told.at);
  row.querySelector("[data-field=status]").className = told.tone;
  return row;
}

function add(told) {
  if (table.querySelector(`tr[data-name="${CSS.escape(told.name)}"]`)) { return; }
  const rows = [...table.rows];
  const last = rows.at(-1);
  // What is older than all that is shown has its place on the next page.
  if (rows.length >= 50 && last && told.at < last.dataset.at) { return; }
  const row = makeRow(told);
  row.classList.add("new");
  setTimeout(() => row.classList.remove("new"), 2000);
  table.insertBefore(row, rows.find((other) => other.dataset.at < told.at) ?? null);
  while (table.rows.length > ROWS_MAX) { table.rows[table.rows.length - 1].remove(); }
  document.getElementById("empty").hidden = true;
}

function pause() {
  isPaused = !isPaused;
  document.getElementById("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) { waiting.splice(0).forEach(add); }
  tell(live.dataset.state, isPaused ? "paused" : live.dataset.state === "live" ? "live" : "connecting");
}

if (live) {
  const source = new EventSource(live.dataset.source);
  source.onopen = () => tell("live", isPaused ? "paused" : "live");
  source.onerror = () => tell("lost", source.readyState === EventSource.CLOSED ? "the server is gone" : "connecting again");
  source.onmessage = (event) => {
    const told = JSON.parse(event.data);
    if (isPaused) {
      waiting.push(told);
      if (waiting.length > ROWS_MAX) { waiting.shift(); }
      document.getElementById("live-word").textContent = `paused, ${waiting.length} waiting`;
    } else {
      add(told);
    }
  };
  source.addEventListener("gap", (event) => say(`${event.data} executions are missing here: this page was too slow`));
  document.getElementById("pause").addEventListener("click", pause);
  keys.p = pause;
}

// --- the chart --------------------------------------------------------------------------------------

const chart = document.getElementById("chart");
if (chart) {
  const minutes = [...chart.querySelectorAll("g")];
  let from = null;
  const place = (event) => {
    const box = chart.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return Math.max(0, Math.min(minutes.length - 1, Math.floor(share * minutes.length)));
  };
  const choose = (a, b) => minutes.forEach((each, n) => each.classList.toggle("chosen", n >= Math.min(a, b) && n <= Math.max(a, b)));
  chart.addEventListener("pointerdown", (event) => {
    from = place(event);
    chart.setPointerCapture(event.pointerId);
    choose(from, from);
  });
  chart.addEventListener("pointermove", (event) => { if (from !== null) { choose(from, place(event)); } });
  chart.addEventListener("pointercancel", () => { from = null; choose(-1, -1); });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) { return; }
    const ends = [from, place(event)].sort((a, b) => a - b);
    const since = minutes[ends[0]].dataset.since;
    const until = minutes[ends[1] + 1]?.dataset.since ?? chart.dataset.until;
    location.assign(`/_flux/?q=${encodeURIComponent(`since:${since} until:${until}`)}`);
  });
}
