// Makes the headings of a table sort its rows. Without it the table reads as it was written.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const order = (a, b) =>
        isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b);
      const rows = [...table.tBodies[0].rows];
      const known = rows.filter((row) => value(row) !== "");
      known.sort((a, b) => (down ? -1 : 1) * order(value(a), value(b)));
      // What has no value stays at the end, whichever way the others go.
      table.tBodies[0].append(...known, ...rows.filter((row) => value(row) === ""));
    });
  });
}
