"use strict";
(() => {
  const table = document.getElementById("results");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const order = new Intl.Collator(undefined, { numeric: true });

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.key ?? cell.textContent.trim();
  };

  const sort = (column, descending) => {
    const numeric = heads[column].classList.contains("number");
    const sign = descending ? -1 : 1;
    const entries = rows.map((row, place) => ({ row, place, key: key(row, column) }));
    entries.sort((a, b) => {
      // What has no value comes last, whichever way the rest is sorted.
      if (a.key === "" || b.key === "") {
        return (a.key === "") - (b.key === "") || a.place - b.place;
      }
      const words = numeric && (isNaN(a.key) || isNaN(b.key));
      const by = numeric && !words ? a.key - b.key : order.compare(a.key, b.key);
      return sign * by || a.place - b.place;
    });
    body.append(...entries.map((entry) => entry.row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      sort(column, head.getAttribute("aria-sort") === "ascending");
    });
    head.append(button);
  });

  const form = document.getElementById("filters");
  const text = document.getElementById("filter-text");
  const status = document.getElementById("filter-status");
  const excluded = document.getElementById("filter-excluded");
  const shown = document.getElementById("shown");

  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const words = `${row.cells[0].textContent} ${row.dataset.reason}`.toLowerCase();
      const keep =
        words.includes(wanted) &&
        (!status.value || row.dataset.status === status.value) &&
        (!excluded.value || row.dataset.excluded === excluded.value);
      row.hidden = !keep;
      count += keep;
    }
    shown.value = `${count} of ${rows.length}`;
  };

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  // A browser that comes back to the page keeps what was typed.
  window.addEventListener("pageshow", filter);
  form.hidden = false;
})();
