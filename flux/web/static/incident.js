// A window gets a name.
import { act, say } from "./frame.js";

document.getElementById("pin-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const name = form.querySelector("input").value.trim();
  try {
    await act("/_flux/act/incidents", { name, window: form.dataset.window });
    location.assign(`/_flux/i/${encodeURIComponent(name)}`);
  } catch (error) {
    say(error.message);
  }
});
