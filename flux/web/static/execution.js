// One execution: its replay, and the mark that makes it one side of a diff.
import { act, copy, keys, say } from "./frame.js";

const MARK = "flux-marked";
const button = document.getElementById("replay");
const verdict = document.getElementById("verdict");

function line(text, className = "") {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  paragraph.className = className;
  verdict.append(paragraph);
  return paragraph;
}

function counts(document_) {
  return Object.entries(document_).filter(([, count]) => count).map(([word, count]) => `${count} ${word}`).join(" · ");
}

async function replay() {
  if (button.disabled) { return; }
  button.disabled = true;
  verdict.hidden = false;
  verdict.replaceChildren();
  line("replaying on the working tree …");
  try {
    const told = await act(button.dataset.act);
    verdict.replaceChildren();
    line(`${told.verdict} on the working tree`, "verdict");
    if (told.reason) { line(told.reason); }
    line(`${told.original.status ?? told.original.outcome} → ${told.replayed.status ?? told.replayed.outcome}`);
    line(`calls: ${counts(told.grades) || "none"}`);
    line(`answers: ${counts(told.answers) || "none"} · ${told.stopped} effects were stopped`);
    told.notes.forEach((note) => line(note));
    if (told.replayed.execution) {
      const link = document.createElement("a");
      link.textContent = `its own record, ${told.replayed.execution}`;
      link.setAttribute("href", `/_flux/e/${encodeURIComponent(told.replayed.execution)}`);
      line("").append(link);
    }
  } catch (error) {
    verdict.replaceChildren();
    line(error.message, "bad");
  } finally {
    button.disabled = false;
  }
}

const mark = document.getElementById("mark");
const name = mark.dataset.name;
const marked = () => sessionStorage.getItem(MARK);

function showMark() {
  const other = marked();
  mark.setAttribute("aria-pressed", String(other === name));
  mark.textContent = other && other !== name ? `Diff with ${other}` : other === name ? "Marked for a diff" : "Mark for a diff";
}

function useMark() {
  const other = marked();
  if (other && other !== name) {
    sessionStorage.removeItem(MARK);
    location.assign(`/_flux/d/${encodeURIComponent(other)}..${encodeURIComponent(name)}`);
    return;
  }
  if (other === name) { sessionStorage.removeItem(MARK); } else { sessionStorage.setItem(MARK, name); }
  say(other === name ? "not marked any more" : `${name} is marked: open another execution to see what differs`);
  showMark();
}

// Flux writes a test by replaying, which takes a while: what comes of it is shown as well, for who has looked away.
const pytest = document.getElementById("pytest");

async function writeTest() {
  pytest.disabled = true;
  verdict.hidden = false;
  verdict.replaceChildren();
  line("writing the smallest test that fails as this did …");
  try {
    const told = await act(pytest.dataset.act);
    verdict.replaceChildren();
    line(`a test for pytest, after ${told.runs} replays${told.is_smallest ? "" : "; a smaller one may be possible"}`, "verdict");
    const text = document.createElement("pre");
    text.className = "value";
    text.tabIndex = 0;
    text.textContent = told.text;
    verdict.append(text);
    await copy(told.text);
  } catch (error) {
    verdict.replaceChildren();
    line(error.message, "bad");
  } finally {
    pytest.disabled = false;
  }
}

document.getElementById("find")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = document.getElementById("find-text").value.trim();
  location.assign(`${event.target.dataset.page}${text ? `?find=${encodeURIComponent(text)}` : ""}#calls`);
});

showMark();
pytest?.addEventListener("click", writeTest);
button.addEventListener("click", replay);
mark.addEventListener("click", useMark);
keys.r = replay;
keys.d = useMark;
keys.t = () => document.getElementById("debug").click();
keys.f = () => document.getElementById("find-text")?.focus();
keys.b = () => document.getElementById("bisect")?.click();
