"use strict";
// The graph as a picture: Graphviz (as WebAssembly) lays out what is unfolded, d3 zooms and pans.
class GraphPicture {
  constructor(holder, data, operations, onSelect) {
    this.holder = holder;
    this.data = data;
    this.operations = operations;
    this.onSelect = onSelect;
    this.folded = new Set(data.folded);
    this.modules = [...new Set(data.groups.map((group) => group[0]))];
    this.boxOf = operations.map((operation) => operation.box);
    this.selected = null;
    this.matched = [];
    this.zoom = d3.zoom().scaleExtent([0.02, 8]).on("zoom", (event) => this.root.attr("transform", event.transform));
  }

  /** The first picture comes laid out; Graphviz starts when something folds or unfolds. */
  start() {
    this.show(this.data.svg);
  }

  async draw() {
    this.graphviz ??= Viz.instance();
    const found = (await this.graphviz).render(this.text(), { format: "svg" });
    this.show(found.output);
  }

  /** Key of what a box is shown as: itself, or the outermost group whose module is folded. */
  owner(box) {
    const group = this.data.boxes[box][2].find((each) => this.folded.has(this.data.groups[each][0]));
    return group === undefined ? `b${box}` : `g${group}`;
  }

  text() {
    const places = new Map([[null, []]]);
    const owners = this.data.boxes.map((_, box) => this.owner(box));
    for (const key of new Set(owners)) {
      const index = Number(key.slice(1));
      const grouped = key[0] === "g";
      const subgraph = grouped ? this.data.groups[index][2] : this.data.boxes[index][1];
      if (!places.has(subgraph)) places.set(subgraph, []);
      places.get(subgraph).push((grouped ? this.data.groupStatements : this.data.statements)[index]);
    }
    const lines = [this.data.header, ...places.get(null)];
    for (const [number, inside] of places) if (number !== null) lines.push(this.data.clusters[number], ...inside, "}");
    const drawn = new Set();
    for (const [source, target] of this.data.edges) {
      const edge = `${owners[source]}->${owners[target]};`;
      if (owners[source] !== owners[target]) drawn.add(edge);
    }
    return [...lines, ...drawn, "}"].join("\n");
  }

  show(text) {
    this.holder.innerHTML = text.slice(text.indexOf("<svg"));
    const svg = d3.select(this.holder).select("svg");
    this.box = svg.node().viewBox.baseVal;
    this.size = [this.box.width, this.box.height];
    // The picture's own coordinates move into a group of their own, so that zooming changes one transform.
    const inner = svg.select("g.graph");
    inner.selectChildren("polygon").remove(); // the background, where there is one; not the shade of a subgraph
    const offset = inner.attr("transform");
    svg.attr("width", "100%").attr("height", "100%").attr("viewBox", null);
    this.root = svg.insert("g", "g").attr("class", "view");
    this.root.append("g").attr("transform", offset).append(() => inner.attr("transform", null).node());
    svg.call(this.zoom).on("dblclick.zoom", null);
    svg.selectAll("g.node").on("click", (event) => this.click(event.currentTarget.id));
    svg.selectAll("title").remove(); // tooltips say more
    this.fit();
    this.mark();
  }

  svg() {
    return d3.select(this.holder).select("svg");
  }

  /** Show the whole picture, or where that would be too small to read its top in the full width. */
  fit() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    const whole = Math.min(width / this.size[0], height / this.size[1], 1.4);
    const scale = Math.max(whole, Math.min(width / this.size[0], 0.75));
    const x = (width - this.size[0] * scale) / 2;
    this.svg().call(this.zoom.transform, d3.zoomIdentity.translate(x, Math.max(8, (height - this.size[1] * scale) / 2)).scale(scale));
  }

  zoomBy(factor) {
    this.svg().call(this.zoom.scaleBy, factor);
  }

  click(key) {
    const index = Number(key.slice(1));
    if (key[0] === "g") this.unfold(this.data.groups[index][0], true);
    else this.onSelect({ box: index, operation: this.data.boxes[index][3] });
  }

  /** Open a module; the modules in it stay folded. */
  async unfold(module, redraw) {
    this.folded.delete(module);
    for (const each of this.modules) {
      if (each.startsWith(`${module}.`) && !this.enclosing(each).some((outer) => outer.startsWith(`${module}.`))) this.folded.add(each);
    }
    if (redraw) await this.draw();
  }

  fold(module) {
    this.folded.add(module);
    this.draw();
  }

  /** The modules around a module or operation that can fold, outermost first. */
  enclosing(path) {
    return this.modules.filter((module) => path.startsWith(`${module}.`)).sort((a, b) => a.length - b.length);
  }

  foldAll() {
    const depth = Math.min(...this.modules.map((module) => module.split(".").length));
    this.folded = new Set(this.modules.filter((module) => module.split(".").length === depth));
    this.draw();
  }

  unfoldAll() {
    this.folded.clear();
    this.draw();
  }

  /** Mark a box, opening what hides it, and bring it into sight. */
  async select(box, reveal) {
    this.selected = box;
    let opened = false;
    while (box !== null && this.owner(box)[0] === "g") {
      this.unfold(this.data.groups[Number(this.owner(box).slice(1))][0], false);
      opened = true;
    }
    if (opened) await this.draw();
    this.mark();
    if (box !== null && reveal) this.reveal(`b${box}`);
  }

  reveal(key) {
    const node = this.holder.querySelector(`[id="${key}"]`);
    const { x, y, width, height } = node.getBBox();
    const scale = Math.max(d3.zoomTransform(this.svg().node()).k, 0.7);
    const shift = node.getCTM().inverse().multiply(this.root.node().getCTM()).inverse();
    const middle = new DOMPoint(x + width / 2, y + height / 2).matrixTransform(shift);
    const { clientWidth, clientHeight } = this.holder;
    const target = d3.zoomIdentity.translate(clientWidth / 2 - middle.x * scale, clientHeight / 2 - middle.y * scale).scale(scale);
    this.svg().call(this.zoom.transform, target);
  }

  /** Boxes of operations that hold the text in their name, type or source line. */
  search(text) {
    const wanted = text.trim().toLowerCase();
    const says = (operation) => `${operation.where} ${operation.name} ${operation.op} ${operation.source}`.toLowerCase();
    this.matched = wanted ? this.operations.map((each, index) => (says(each).includes(wanted) ? index : -1)).filter((i) => i >= 0) : [];
    this.mark();
    return this.matched;
  }

  mark() {
    const matched = new Set(this.matched.map((index) => this.owner(this.boxOf[index])));
    const chosen = this.selected === null ? "" : this.owner(this.selected);
    this.svg()
      .selectAll("g.node")
      .classed("match", (_, i, nodes) => matched.has(nodes[i].id))
      .classed("chosen", (_, i, nodes) => nodes[i].id === chosen);
  }
}
