// What every page has: the filter, buttons that copy, keys, signing out.
// Scripts here make no markup: the policy of the pages refuses it, and text is only ever put in as text.

const said = document.getElementById("said");
let fading;

export function say(text) {
  said.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { said.textContent = ""; }, 6000);
}

// Asks the server to do something; returns what it answered, or throws with its words.
export async function act(address, body = {}) {
  const answer = await fetch(address, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const document_ = await answer.json();
  if (!answer.ok) {
    throw new Error([document_.code, document_.detail, document_.remedy].filter(Boolean).join(" · "));
  }
  return document_;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("copied");
  } catch (error) {
    say(`the browser does not let this page copy: ${error.message}`);
  }
}

async function copyFrom(address) {
  const answer = await fetch(address);
  const text = await answer.text();
  if (answer.ok) { await copy(text); } else { say(text); }
}

// A link with a token opened the page. It is taken out of the address at once, and of the history with it.
export const token = location.hash.startsWith("#t=") ? decodeURIComponent(location.hash.slice(3)) : null;
if (token !== null) {
  history.replaceState(null, "", location.pathname + location.search);
}

document.getElementById("filter")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  const text = form.querySelector("input").value.trim();
  location.assign(form.dataset.page + (text ? `?q=${encodeURIComponent(text)}` : ""));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) { return; }
  if (button.dataset.copy) { copy(button.dataset.copy); }
  if (button.dataset.copyFrom) { copyFrom(button.dataset.copyFrom); }
  if (button.id === "show-keys") { document.getElementById("keys").showModal(); }
  if (button.id === "sign-out") { act("/_flux/session/end").then(() => location.reload(), (error) => say(error.message)); }
});

// --- keys -------------------------------------------------------------------------------------------

const items = () => [...document.querySelectorAll("table tbody tr:has(a), .calls > li")];

function move(step, wanted = () => true) {
  const all = items();
  if (!all.length) { return; }
  let place = all.findIndex((item) => item.classList.contains("here") || item.contains(document.activeElement));
  place = place < 0 ? (step > 0 ? 0 : all.length - 1) : place + step;
  while (all[place] && !wanted(all[place])) { place += step; }
  if (!all[place]) { say("no more"); return; }
  all.forEach((item, number) => item.classList.toggle("here", number === place));
  all[place].querySelector("a, summary").focus();
  all[place].scrollIntoView({ block: "nearest" });
}

export const keys = {
  j: () => move(1),
  k: () => move(-1),
  e: () => move(1, (item) => "failed" in item.dataset),
  "/": () => document.getElementById("q")?.focus(),
  y: () => document.querySelector("footer [data-copy]")?.click(),
  "?": () => document.getElementById("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) { return; }
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
});

// A call that a link leads to is opened.
function openTarget() {
  document.getElementById(location.hash.slice(1))?.querySelector("details")?.setAttribute("open", "");
}
addEventListener("hashchange", openTarget);
openTarget();
