// A row is asked for by its table and its key, a table between two times.
function ask(form, fields) {
  document.getElementById(form)?.addEventListener("submit", (event) => {
    event.preventDefault();
    const said = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) {
      const value = document.getElementById(field).value.trim();
      if (value) { said.set(name, value); }
    }
    location.assign(`/_flux/state?${said}`);
  });
}

ask("row", { table: "table", key: "key", time: "time" });
ask("changed", { table: "in-table", from: "from", to: "to" });
