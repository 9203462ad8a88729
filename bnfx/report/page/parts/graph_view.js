// One graph: drawn once as SVG, moved and scaled by a transform.
const BOX = { width: 172, height: 44 };
const LEAST = 0.02, MOST = 3, READABLE = 0.8, TINY = 0.3;

const short = (text, most) => (text.length <= most ? text : `…${text.slice(text.length - most + 1)}`);

class GraphView {
  constructor(side) {
    this.side = side;
    this.box = find(side);
    this.strip = find(`${side}-strip`);
    this.nodes = new Map();
    this.pointers = new Map();
    this.listen();
  }

  show(graph) {
    this.graph = graph;
    this.nodes = new Map(graph.nodes.map((node) => [node.id, node]));
    this.readers = new Map();
    for (const node of graph.nodes) {
      for (const source of node.inputs) {
        if (!this.readers.has(source)) this.readers.set(source, []);
        this.readers.get(source).push(node.id);
      }
    }
    this.here = graph.nodes[0]?.id;
    const edges = graph.edges.map((edge, at) => this.drawnEdge(edge, at)).join("");
    const nodes = graph.nodes.map((node) => this.drawnNode(node)).join("");
    this.box.innerHTML = `<svg aria-hidden="true"><g class="world">${edges}${nodes}</g></svg>`;
    this.svg = this.box.firstChild;
    this.world = this.svg.firstChild;
    this.drawn = new Map([...this.world.querySelectorAll(".node")].map((each) => [Number(each.dataset.id), each]));
    this.drawnEdges = [...this.world.querySelectorAll(".edge")];
    const ops = graph.nodes.filter((node) => node.kind !== "input" && node.kind !== "output").length;
    find(`${this.side}-size`).textContent = `${ops} ops`;
    this.start();
  }

  drawnNode({ id, name, kind, x, y, outcome }) {
    const label = name === kind || name.endsWith(`:${kind}`) ? name.replace(/:?[^:]*$/, "") || name : name;
    return (
      `<g class="node${outcome ? ` marked ${outcome}` : ""}" data-id="${id}" transform="translate(${x} ${y})">` +
      `<title>${escaped(name)} (${escaped(kind)})</title>` +
      `<rect x="${-BOX.width / 2}" y="${-BOX.height / 2}" width="${BOX.width}" height="${BOX.height}" rx="7"/>` +
      `<text y="-3">${escaped(short(kind, 22))}</text><text class="small" y="13">${escaped(short(label, 25))}</text></g>`
    );
  }

  drawnEdge([source, target, bends, isFar], at) {
    const from = this.nodes.get(source), to = this.nodes.get(target);
    const top = from.y + BOX.height / 2, end = to.y - BOX.height / 2;
    let path = `M${from.x} ${top}`;
    if (isFar) {
      const out = Math.min(60 + (to.y - from.y) / 12, 420) + BOX.width / 2;
      const side = from.x + out, then = to.x + out;
      path = `M${from.x + BOX.width / 2} ${from.y}C${side} ${from.y},${then} ${to.y},${to.x + BOX.width / 2} ${to.y}`;
    } else {
      let [x, y] = [from.x, top];
      for (let i = 0; i <= bends.length; i += 2) {
        const last = i >= bends.length;
        const nx = last ? to.x : bends[i], ny = last ? end : bends[i + 1];
        const middle = (y + ny) / 2;
        path += x === nx ? `L${nx} ${ny}` : `C${x} ${middle},${nx} ${middle},${nx} ${ny}`;
        [x, y] = [nx, ny];
      }
    }
    return `<path class="edge${isFar ? " far" : ""}" data-at="${at}" d="${path}"/>`;
  }

  size() {
    return { width: this.box.clientWidth, height: this.box.clientHeight };
  }

  // The beginning of the graph at a readable size: a network is much longer than it is wide.
  start() {
    const { width } = this.size();
    this.scale = Math.min(1, Math.max(READABLE, (width - 30) / (this.graph.width + BOX.width + 40)));
    const first = this.graph.nodes.find((node) => node.outcome) ?? this.graph.nodes[0];
    this.x = width / 2 - this.middle(first, 0, this.size().height / this.scale) * this.scale;
    this.y = (BOX.height / 2 + 16) * this.scale;
    this.move();
  }

  // The middle of all that stands between two heights if there is room for it, else of one op.
  middle(node, top, bottom) {
    const places = this.graph.nodes.filter(({ y }) => y >= top && y <= bottom).map(({ x }) => x);
    const least = Math.min(...places), most = Math.max(...places);
    const fits = most - least + BOX.width < this.size().width / this.scale;
    return fits ? (least + most) / 2 : node?.x ?? 0;
  }

  showAll() {
    const { width, height } = this.size();
    const wide = this.graph.width + BOX.width + 40, tall = this.graph.height + BOX.height + 40;
    this.scale = Math.max(LEAST, Math.min(1, width / wide, height / tall));
    this.x = width / 2 - (this.graph.width / 2) * this.scale;
    this.y = height / 2 - (this.graph.height / 2) * this.scale;
    this.move();
  }

  zoom(factor, x = this.size().width / 2, y = this.size().height / 2) {
    const scale = Math.min(MOST, Math.max(LEAST, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.move();
  }

  centre(id) {
    const node = this.nodes.get(id);
    if (!node) return;
    this.scale = Math.max(this.scale, READABLE);
    const { width, height } = this.size();
    const half = height / 2 / this.scale;
    this.x = width / 2 - this.middle(node, node.y - half, node.y + half) * this.scale;
    this.y = height / 2 - node.y * this.scale;
    this.move();
  }

  move() {
    if (!this.pending) {
      this.pending = requestAnimationFrame(() => {
        this.pending = 0;
        this.world.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
        this.svg.classList.toggle("distant", this.scale < TINY);
        this.drawStrip();
      });
    }
  }

  // All of the graph in a strip at the side: where something became of an op, and what is in view.
  drawStrip() {
    const { width, height } = this.strip.getBoundingClientRect();
    this.strip.width = width;
    this.strip.height = height;
    const pen = this.strip.getContext("2d");
    const place = (y) => (this.graph.height ? (y / this.graph.height) * (height - 4) + 2 : height / 2);
    pen.globalAlpha = 0.18;
    pen.fillStyle = colour("accent");
    const from = place(-this.y / this.scale), to = place((this.size().height - this.y) / this.scale);
    pen.fillRect(0, Math.max(0, from), width, Math.max(4, Math.min(height, to) - Math.max(0, from)));
    pen.globalAlpha = 1;
    const colours = {};
    for (const { outcome, y } of this.graph.nodes) {
      if (!outcome) continue;
      pen.fillStyle = colours[outcome] ??= colour(outcome);
      pen.fillRect(2, place(y) - 1, width - 4, 2);
    }
  }

  mark(name, ids) {
    for (const each of this.world.querySelectorAll(`.node.${name}`)) each.classList.remove(name);
    for (const id of ids) this.drawn.get(id)?.classList.add(name);
  }

  markEdges(ids) {
    const chosen = new Set(ids);
    for (const drawn of this.drawnEdges) {
      const [source, target] = this.graph.edges[Number(drawn.dataset.at)];
      drawn.classList.toggle("near-chosen", chosen.has(source) || chosen.has(target));
    }
  }
}
