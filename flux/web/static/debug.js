// Stepping through an execution. The server goes somewhere and looks; then the page of that event is shown, in the place
// of this one: the browser's "back" leaves the execution, and does not walk through it again.
import { act, keys, say } from "./frame.js";

const LEFT = "flux-debug";
const page = document.getElementById("debug");
const refused = document.getElementById("refused");
const moving = document.getElementById("moving");
const said = page.dataset;
let busy = false;
let stays = false;

function field(id) { return document.getElementById(id)?.value.trim() ?? ""; }

function address(told) {
  const query = new URLSearchParams();
  for (const name of ["at", "up", "expression", "watch"]) {
    if (told[name]) { query.set(name, told[name]); }
  }
  return `${said.here}${query.size ? `?${query}` : ""}`;
}

// What is shown is kept where it is on the screen, and what was pressed has the focus again.
function show(where, told = null) {
  stays = true;
  const left = { here: said.here, top: scrollY, focus: document.activeElement?.id ?? "", looked: told !== null };
  sessionStorage.setItem(LEFT, JSON.stringify({ ...left, said: told ?? "" }));
  location.replace(where);
}

async function look(order, whither = {}) {
  if (busy) { return; }
  busy = true;
  refused.textContent = "";
  moving.textContent = "looking …";
  const asked = { up: Number(said.up), expression: said.expression, watch: said.watch, ...order, ...whither };
  if (said.at && !("at" in asked)) { asked.at = Number(said.at); }
  try {
    const told = await act(said.act, asked);
    show(address(told), told.said);
  } catch (error) {
    refused.textContent = error.message;
    moving.textContent = "";
    busy = false;
  }
}

const go = (way) => look({ up: 0 }, { go: way });
const to = (ahead) => field("target") && look({ up: 0 }, { to: field("target"), ahead });
const change = (ahead) => field("watch") && look({ up: 0, watch: field("watch") }, { change: field("watch"), ahead });

function submit(id, then) {
  document.getElementById(id)?.addEventListener("submit", (event) => { event.preventDefault(); then(); });
}

function press(id, then) { document.getElementById(id)?.addEventListener("click", then); }

submit("to", () => to(true));
submit("names", () => look({ watch: field("watch") }));
submit("look-up", () => look({ expression: field("expression") }));
press("to-back", () => to(false));
press("change-back", () => change(false));
press("change-on", () => change(true));
press("look", () => look({}));
for (const button of document.querySelectorAll("[data-go]")) {
  button.addEventListener("click", () => go(button.dataset.go));
}

const slider = document.getElementById("event");
slider?.addEventListener("input", () => { document.getElementById("event-said").textContent = slider.value; });
slider?.addEventListener("change", () => look({ at: Number(slider.value), up: 0 }));

Object.assign(keys, {
  n: () => go("next"),
  p: () => go("prev"),
  s: () => go("step"),
  o: () => go("out"),
  f: () => go("failure"),
  ArrowLeft: () => go("back"),
  ArrowRight: () => go("forward"),
  u: () => {
    const callers = [...document.querySelectorAll(".stack a")];
    const caller = callers[Number(said.up) + 1];
    if (caller) { caller.click(); } else { say("nobody of the project's had called it"); }
  },
  t: () => document.getElementById("target")?.focus(),
  w: () => document.getElementById("watch")?.focus(),
  x: () => document.getElementById("execution").click(),
});

// Links to other events of the same execution stay in it.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (link && link.pathname === location.pathname && link.search !== location.search && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    show(link.href);
  }
});

// Whoever leaves has the server forget what was seen; a question that goes on is given up.
addEventListener("pagehide", () => {
  if (stays || !said.session) { return; }
  fetch(said.end, {
    method: "POST", keepalive: true, headers: { "content-type": "application/json" },
    body: JSON.stringify({ session: Number(said.session) }),
  });
});

const left = JSON.parse(sessionStorage.getItem(LEFT) ?? "null");
sessionStorage.removeItem(LEFT);
if (left?.here === said.here) {
  scrollTo(0, left.top);
  document.getElementById(left.focus)?.focus({ preventScroll: true });
  if (left.said) { say(left.said); }
}
// What was looked at is shown. Where it is gone already, the page does not ask for it over and over.
if (said.state === "none" && !(left?.here === said.here && left.looked)) { look({}); }
