// Buttons that have the server do something, after a question where one is to be asked; then the page is shown anew.
import { act, say } from "./frame.js";

const DONE = "flux-done";
const refused = document.getElementById("refused");
const question = document.getElementById("question");

// What was done before the page was shown anew is said on the new one.
const done = sessionStorage.getItem(DONE);
if (done !== null) {
  sessionStorage.removeItem(DONE);
  say(done);
}

function ask(text) {
  if (!text) { return Promise.resolve(true); }
  document.getElementById("question-text").textContent = text;
  question.returnValue = "";
  question.showModal();
  return new Promise((resolve) => {
    question.addEventListener("close", () => resolve(question.returnValue === "yes"), { once: true });
  });
}

async function press(button) {
  const words = button.textContent;
  if (!await ask(button.dataset.ask)) { return; }
  button.disabled = true;
  refused.textContent = "";
  try {
    const told = await act(button.dataset.act, JSON.parse(button.dataset.body ?? "{}"));
    sessionStorage.setItem(DONE, [`done: ${words}`, ...(told.notes ?? [])].join(" · "));
    location.reload();
  } catch (error) {
    refused.textContent = error.message;
    refused.scrollIntoView({ block: "nearest" });
    button.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button && !button.disabled) { press(button); }
});
