// What is chosen, and who is told: the graphs, the table and the plots listen.
const DATA = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const listeners = [];
const views = {}; // "before" and "after"
let shownGraph = -1;

const onChoice = (listener) => listeners.push(listener);

// The rows that an op carries out, or what `rows` says for an op of which there is only a row.
function choose(choice) {
  const rows = choice.rows ?? [];
  for (const listener of listeners) listener({ ...choice, rows });
}

function chooseOp(side, id) {
  const node = views[side]?.nodes.get(id);
  if (node) choose({ side, id, node, rows: node.rows });
}

function chooseRow(row) {
  const graph = DATA.rows[row].graph;
  if (graph >= 0 && graph !== shownGraph) showGraph(graph);
  const carrier = (side) => DATA.graphs[graph]?.[side].nodes.find((node) => node.rows.includes(row));
  const node = carrier("before") ?? carrier("after");
  choose(node ? { side: carrier("before") ? "before" : "after", id: node.id, node, rows: [row] } : { rows: [row] });
}

// The op of the other side that stands for `node`: it carries out the same rows, or is the same op.
function counterpart(side, node, rows) {
  const others = DATA.graphs[shownGraph][side === "before" ? "after" : "before"].nodes;
  const carries = rows.length ? others.filter((other) => other.rows.some((row) => rows.includes(row))) : [];
  return carries.length ? carries : others.filter((other) => other.id === node.id);
}

const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
  "dark";
const themeListeners = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

find("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  for (const listener of themeListeners) listener();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const listener of themeListeners) listener();
});

function escaped(text) {
  const span = document.createElement("span");
  span.textContent = text;
  return span.innerHTML.replaceAll('"', "&quot;");
}

// What is said of the op, for eyes and for screen readers.
function describe({ side, node, rows }) {
  const box = find("chosen");
  if (!box) return;
  const lines = [];
  if (node) {
    const shape = node.shape ? `, ${escaped(node.shape)}` : "";
    lines.push(`<p><strong>${escaped(node.name)}</strong> · ${escaped(node.kind)}${shape} <small>(${side})</small></p>`);
  }
  for (const row of rows.slice(0, 12)) {
    const { name, outcome } = DATA.rows[row];
    const into = document.querySelector(`#table tr[data-row="${row}"] td[data-label="Into"]`).textContent;
    const where = into ? ` into ${escaped(into)}` : "";
    lines.push(`<p><span class="badge ${outcome}">${outcome}</span> ${escaped(name)}${where}</p>`);
  }
  if (rows.length > 12) lines.push(`<p>and ${rows.length - 12} more</p>`);
  const others = node && shownGraph >= 0 ? counterpart(side, node, rows) : [];
  if (node && !others.length && node.kind !== "output") {
    lines.push(`<p>It is gone ${side === "before" ? "after" : "before"} the fold, and nothing stands for it.</p>`);
  }
  box.innerHTML = lines.join("");
}
onChoice(describe);
