// The table of verdicts: sorted by a column, filtered by words and verdicts.
const body = find("table").tBodies[0];
const tableRows = [...body.rows].map((row) => ({
  row,
  text: row.textContent.toLowerCase(),
  cells: [...row.cells].map((cell) => cell.textContent.trim()),
}));
const collator = new Intl.Collator("en", { numeric: true });

function filterRows() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = new Set([...document.querySelectorAll(".outcome:checked")].map((box) => box.value));
  let shown = 0;
  for (const { row, text } of tableRows) {
    row.hidden = !(outcomes.has(row.dataset.outcome) && words.every((word) => text.includes(word)));
    shown += !row.hidden;
  }
  find("shown").textContent = shown === tableRows.length ? `${shown} rows` : `${shown} of ${tableRows.length} rows`;
}

function sortRows(column, header) {
  const ascending = header.ariaSort !== "ascending";
  for (const other of header.parentNode.cells) other.ariaSort = "none";
  header.ariaSort = ascending ? "ascending" : "descending";
  const key = ({ cells }) => cells[column];
  const compare =
    column === 4
      ? (a, b) => (Number(key(a)) || 0) - (Number(key(b)) || 0)
      : (a, b) => collator.compare(key(a), key(b));
  const sorted = [...tableRows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
  body.append(...sorted.map(({ row }) => row));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortRows(Number(button.dataset.column), button.parentNode));
}
find("filter").addEventListener("input", filterRows);
for (const box of document.querySelectorAll(".outcome")) box.addEventListener("change", filterRows);
filterRows();

let fromTable = false;
body.addEventListener("click", (event) => {
  const link = event.target.closest(".link");
  if (!link) return;
  fromTable = true;
  chooseRow(Number(link.closest("tr").dataset.row));
  fromTable = false;
  find("graphs")?.scrollIntoView();
});
onChoice(({ rows }) => {
  for (const row of body.querySelectorAll("tr.picked")) row.classList.remove("picked");
  for (const each of rows) body.querySelector(`tr[data-row="${each}"]`)?.classList.add("picked");
  const first = body.querySelector("tr.picked");
  if (first && !fromTable) {
    const frame = document.querySelector(".scroll"); // within its frame; the page stays where it is
    frame.scrollTop += first.getBoundingClientRect().top - frame.getBoundingClientRect().top - frame.clientHeight / 3;
  }
});
