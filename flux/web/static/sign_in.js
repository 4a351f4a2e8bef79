// Shows the token that came behind the address' "#", which no server has seen, to the one door that takes it.
import { act, token } from "./frame.js";

async function open(shown) {
  try {
    await act("/_flux/session", { token: shown });
    location.reload();
  } catch (error) {
    document.getElementById("refused").textContent = error.message;
  }
}

document.getElementById("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  open(document.getElementById("token").value.trim());
});

if (token) { open(token); }
