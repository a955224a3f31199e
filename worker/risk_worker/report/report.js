// Without it the page is the same, in the order of the traders' names.
(() => {
  "use strict";
  const table = document.querySelector("table.fleet");
  if (!table) return;
  const body = table.tBodies[0], cards = document.querySelector(".cards");
  const rows = [...body.rows].map((row, n) => ({ row, card: cards.children[n], name: row.cells[0].textContent }));
  const form = document.querySelector(".filter"), found = form.querySelector("output");

  const value = (cell) => {
    const text = cell.dataset.s ?? cell.textContent;
    if (text === "–") return null;
    const plain = text.replace(/[\s,+%]/g, "").replace("\u2212", "-");
    return plain !== "" && isFinite(plain) ? Number(plain) : text;
  };
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));

  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending"
      || (!head.hasAttribute("aria-sort") && head.classList.contains("n"));
    table.querySelectorAll("[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((each) => ({ each, key: value(each.row.cells[column]) }));
    // What has no value is last in both directions.
    keyed.sort((a, b) => a.key === null || b.key === null
      ? (a.key === null) - (b.key === null) : order(a.key, b.key) * (down ? -1 : 1));
    body.append(...keyed.map(({ each }) => each.row));
    cards.append(...keyed.map(({ each }) => each.card));
  };

  const filter = () => {
    const text = form.querySelector("[type=search]").value.trim().toLowerCase();
    const kind = form.querySelector(":checked").value;
    let count = 0;
    for (const { row, card, name } of rows) {
      const shown = name.toLowerCase().includes(text) && (!kind || row.classList.contains(kind));
      row.hidden = card.hidden = !shown;
      count += shown;
    }
    found.textContent = count < rows.length ? `${count} of ${rows.length}, their curves too` : "";
  };

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.classList.contains("s")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    head.append(button);
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
