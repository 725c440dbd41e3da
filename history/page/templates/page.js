// Sorting and filtering of tables, and copying of text. Without it the page has all it says, in the order it was made.
(() => {
  "use strict";
  // What has no number, such as a cost without a price, is less than any.
  const number = (cell) => {
    const data = cell.querySelector("data");
    return data ? Number(data.value) : -Infinity;
  };
  const text = (cell) => cell.textContent.trim();
  for (const table of document.querySelectorAll("table[data-sorts]")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const counts = head.classList.contains("n");
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const falls = now ? now === "ascending" : counts;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falls ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [counts ? number(row.cells[place]) : text(row.cells[place]), row]);
        rows.sort(([a], [b]) => (counts ? (a > b) - (a < b) : a.localeCompare(b, "en")));
        if (falls) rows.reverse();
        body.append(...rows.map(([, row]) => row));
      });
    });
  }
  for (const tools of document.querySelectorAll(".tools[data-filters]")) {
    const body = document.getElementById(tools.dataset.filters).tBodies[0];
    const input = tools.querySelector("input");
    const said = tools.querySelector("output");
    tools.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      said.textContent = words.length ? `${shown} of ${body.rows.length} rows` : "";
    });
  }
  if (navigator.clipboard) {
    for (const text of document.querySelectorAll(".copies")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy ${text.dataset.copies}`);
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(text.firstElementChild.textContent);
        button.textContent = "Copied";
      });
      text.append(button);
    }
  }
})();
