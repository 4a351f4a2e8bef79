// Something that the server does for a page: it is begun, watched while it goes on, and cancelled.
// It goes on without the page; when it has ended, the page is loaded again and says what came of it.
import { act, keys } from "./frame.js";

const EVERY_MS = 1000;
const run = document.getElementById("run");
const form = document.getElementById("begin");
const refused = document.getElementById("run-refused");

function show(told) {
  document.getElementById("run-said").textContent = told.said;
  const bar = document.getElementById("run-bar");
  if (told.of) { bar.max = told.of; bar.value = told.done; }
  const rows = document.getElementById("run-rows");
  rows.hidden = !told.rows.length;
  rows.replaceChildren(...told.rows.map((row) => {
    const item = document.createElement("li");
    item.className = row.tone;
    item.textContent = row.text;
    return item;
  }));
}

async function watch() {
  try {
    const answer = await fetch(run.dataset.source);
    const told = await answer.json();
    if (!answer.ok) { throw new Error(`${told.code} ${told.detail}`); }
    refused.textContent = "";
    if (told.state !== "running") { location.reload(); return; }
    show(told);
  } catch (error) {
    refused.textContent = `how far it is can't be seen: ${error.message}`;
  }
  setTimeout(watch, EVERY_MS);
}

async function begin(event) {
  event?.preventDefault();
  if (run.dataset.state === "running") { return; }
  refused.textContent = "";
  const said = {};
  for (const field of form.querySelectorAll("input")) {
    const text = field.value.trim();
    if (text) { said[field.name] = text; }
  }
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    await act(form.dataset.act, said);
    location.assign(form.dataset.page);
  } catch (error) {
    refused.textContent = error.message;
    button.disabled = false;
  }
}

async function cancel(event) {
  event.target.disabled = true;
  try {
    await act(event.target.dataset.act);
  } catch (error) {
    refused.textContent = error.message;
    event.target.disabled = false;
  }
}

if (form) {
  form.addEventListener("submit", begin);
  keys.r = begin;
  if (run.dataset.state === "running") { form.querySelector("button").disabled = true; }
}
document.getElementById("cancel")?.addEventListener("click", cancel);
if (run?.dataset.state === "running") { setTimeout(watch, EVERY_MS); }
