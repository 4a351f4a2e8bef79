// A row is asked for by its table and its key.
document.getElementById("row").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = new URLSearchParams();
  for (const name of ["table", "key"]) { said.set(name, document.getElementById(name).value.trim()); }
  location.assign(`/_flux/state?${said}`);
});
