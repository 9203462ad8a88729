// Plots of one layer, channel by channel.
const HALF_LARGEST = 65504, HALF_NORMAL = 6.104e-5; // of float16

function numbers(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function axes(more) {
  const line = colour("line");
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 56, r: 12, t: 10, b: more.type ? 84 : 42 },
    xaxis: { title: { text: "channel" }, gridcolor: line, zerolinecolor: line },
    yaxis: { gridcolor: line, zerolinecolor: line, ...more },
    legend: { orientation: "h", y: -0.26 },
    showlegend: Boolean(more.type),
  };
}

const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

function limit(y, text, count) {
  const line = { color: colour("kept"), width: 1.5, dash: "dash" };
  return { x: [0, Math.max(1, count - 1)], y: [y, y], mode: "lines", line, name: text, hoverinfo: "name" };
}

function plotLayer(row) {
  const layer = DATA.channels[row];
  if (!layer) return;
  find("layer").value = String(row);
  const scale = numbers(layer.scale);
  const channels = [...scale.keys()];
  const marks = { color: colour("accent"), size: 4 };
  Plotly.react("scale", [{ x: channels, y: [...scale], mode: "markers", type: "scatter", marker: marks }], axes({}), CONFIG);
  find("weights-title").textContent = layer.into
    ? `Absolute weights of ${layer.into}, as folded. Beyond the dashed lines float16 overflows, or loses digits.`
    : "It was not folded into weights.";
  find("weights").hidden = !layer.into;
  if (!layer.into) return;
  const largest = numbers(layer.largest), mean = numbers(layer.mean);
  const outputs = [...largest.keys()];
  const traces = [
    { x: outputs, y: [...largest], mode: "markers", name: "largest", marker: { color: colour("folded"), size: 4 } },
    { x: outputs, y: [...mean], mode: "markers", name: "mean", marker: { color: colour("lowered"), size: 4, symbol: "x" } },
  ];
  const top = largest.reduce((a, b) => Math.max(a, b), 0), low = mean.reduce((a, b) => Math.min(a, b), Infinity);
  // A limit far away would press the weights into a line.
  if (top > HALF_LARGEST / 1000) traces.push(limit(HALF_LARGEST, "float16: largest", largest.length));
  if (low < HALF_NORMAL * 1000) traces.push(limit(HALF_NORMAL, "float16: smallest normal", largest.length));
  Plotly.react("weights", traces, axes({ type: "log", exponentformat: "power" }), CONFIG);
}

if (find("channels")) {
  find("layer").addEventListener("change", (event) => {
    chooseRow(Number(event.target.value));
  });
  onChoice(({ rows }) => {
    const row = rows.find((each) => DATA.channels[each]);
    if (row !== undefined) plotLayer(row);
  });
  themeListeners.push(() => plotLayer(Number(find("layer").value)));
  // Later, so that the graph is there first.
  requestAnimationFrame(() => setTimeout(() => plotLayer(Number(find("layer").value))));
}
