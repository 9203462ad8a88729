// How graphs are moved and walked through: pointers, wheel, keys, search.
GraphView.prototype.listen = function () {
  const { box, pointers } = this;
  const at = (event) => {
    const frame = box.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  let moved = 0, downOn = null;
  box.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) {
      moved = 0;
      downOn = event.target.closest(".node");
    }
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    const old = pointers.get(event.pointerId);
    pointers.set(event.pointerId, at(event));
    const now = [...pointers.values()];
    moved += Math.hypot(now.at(-1)[0] - before.at(-1)[0], now.at(-1)[1] - before.at(-1)[1]);
    if (pointers.size === 1) {
      const [x, y] = pointers.get(event.pointerId);
      this.x += x - old[0];
      this.y += y - old[1];
      this.move();
    } else if (pointers.size === 2) {
      const gap = ([[ax, ay], [bx, by]]) => Math.hypot(ax - bx, ay - by) || 1;
      const [[ax, ay], [bx, by]] = now;
      this.zoom(gap(now) / gap(before), (ax + bx) / 2, (ay + by) / 2);
    }
  });
  const up = (event) => {
    pointers.delete(event.pointerId);
    if (event.type === "pointerup" && moved < 5 && downOn) chooseOp(this.side, Number(downOn.dataset.id));
  };
  box.addEventListener("pointerup", up);
  box.addEventListener("pointercancel", up);
  box.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.01), ...at(event));
        return;
      }
      // The page scrolls on where the graph ends.
      const { height } = this.size();
      const top = this.y, bottom = this.y + this.graph.height * this.scale;
      const more = event.deltaY > 0 ? bottom > height - 60 : top < 60;
      if (!more && !event.deltaX) return;
      event.preventDefault();
      this.x -= event.deltaX;
      this.y -= event.deltaY;
      this.move();
    },
    { passive: false },
  );
  box.addEventListener("keydown", (event) => this.key(event));
  const jump = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const frame = this.strip.getBoundingClientRect();
    const share = (event.clientY - frame.top) / frame.height;
    this.y = this.size().height / 2 - share * this.graph.height * this.scale;
    this.move();
  };
  this.strip.addEventListener("pointerdown", jump);
  this.strip.addEventListener("pointermove", jump);
};

GraphView.prototype.key = function (event) {
  const order = this.graph.nodes;
  const at = order.findIndex((node) => node.id === this.here);
  const step = (by) => order[Math.min(order.length - 1, Math.max(0, at + by))]?.id;
  const actions = {
    ArrowDown: () => this.go(this.readers.get(this.here)?.[0]),
    ArrowUp: () => this.go(this.nodes.get(this.here)?.inputs[0]),
    ArrowRight: () => this.go(step(1)),
    ArrowLeft: () => this.go(step(-1)),
    Home: () => this.go(order[0]?.id),
    End: () => this.go(order.at(-1)?.id),
    Enter: () => chooseOp(this.side, this.here),
    " ": () => chooseOp(this.side, this.here),
    "+": () => this.zoom(1.3),
    "=": () => this.zoom(1.3),
    "-": () => this.zoom(1 / 1.3),
    0: () => this.showAll(),
  };
  const action = actions[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
};

// Walk to an op, and say which it is.
GraphView.prototype.go = function (id) {
  const node = this.nodes.get(id);
  if (!node) return;
  this.here = id;
  this.mark("here", [id]);
  this.centre(id);
  const verdict = node.outcome ? `, ${node.outcome}` : "";
  find("chosen").innerHTML = `<p>At <strong>${escaped(node.name)}</strong> · ${escaped(node.kind)}${verdict}</p>`;
};

function showGraph(at) {
  shownGraph = at;
  for (const side of ["before", "after"]) views[side].show(DATA.graphs[at][side]);
  const choice = find("choice");
  if (choice) choice.value = String(at);
  search();
}

let found = [], turn = -1;

function search() {
  const wanted = find("search").value.trim().toLowerCase();
  const hits = (node) => wanted && (node.name.toLowerCase().includes(wanted) || node.kind.toLowerCase() === wanted);
  found = [];
  turn = -1;
  for (const [side, view] of Object.entries(views)) {
    const ids = view.graph.nodes.filter(hits).map((node) => node.id);
    view.mark("match", ids);
    found.push(...ids.map((id) => ({ side, id })));
  }
  const ops = found.length === 1 ? "op" : "ops";
  find("matches").textContent = wanted ? `${found.length} ${ops}${found.length ? ", Enter shows the next" : ""}` : "";
  if (found.length) views[found[0].side].centre(found[0].id);
}

if (find("graphs")) {
  for (const side of ["before", "after"]) views[side] = new GraphView(side);
  onChoice(({ side, id, node, rows }) => {
    if (!node) return;
    const others = counterpart(side, node, rows).map((other) => other.id);
    const opposite = side === "before" ? "after" : "before";
    for (const [one, ids] of [[side, [id]], [opposite, others]]) {
      views[one].mark("chosen", ids);
      views[one].markEdges(ids);
      views[one].mark("here", []);
      if (ids.length) views[one].here = ids[0];
    }
    views[side].centre(id);
    if (others.length) views[opposite].centre(others[0]);
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      const view = views[button.dataset.side];
      if (button.dataset.zoom === "all") view.showAll();
      else view.zoom(button.dataset.zoom === "in" ? 1.4 : 1 / 1.4);
    });
  }
  find("search").addEventListener("input", search);
  find("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !found.length) return;
    event.preventDefault();
    turn = (turn + 1) % found.length;
    chooseOp(found[turn].side, found[turn].id);
  });
  find("choice")?.addEventListener("change", (event) => showGraph(Number(event.target.value)));
  showGraph(Number(find("choice")?.value ?? 0));
  new ResizeObserver(() => Object.values(views).forEach((view) => view.move())).observe(find("graphs"));
  themeListeners.push(() => Object.values(views).forEach((view) => view.move()));
}
