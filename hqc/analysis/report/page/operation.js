"use strict";
// Everything about one operation or boundary.
class OperationPanel {
  constructor(holder, data, actions) {
    this.holder = holder;
    this.data = data;
    this.actions = actions;
  }

  empty() {
    this.holder.replaceChildren(element("p", { class: "hint" }, words.of("select")));
  }

  boundary(box) {
    const found = this.data.boundaries.find((each) => each.box === box);
    if (!found) return this.empty();
    const rows = [["op", found.op], ["moves", `${found.from} → ${found.name}, ${found.detail}`], ["result", found.type], ["grid", found.quant]];
    this.holder.replaceChildren(element("h2", {}, found.name), this.facts(rows));
  }

  operation(index) {
    const each = this.data.operations[index];
    const on = this.data.chips.map((chip, i) => `${chip.march} ${each.chips[i] || "–"}`).join(", ");
    const rows = [
      ["device", placed(each)], ["why", each.why.map((text) => words.said(text)).join("\n")], ["change", words.said(each.change)], ["on_chips", on], ["op", each.op], ["module", each.module],
      ["source", each.source], ["origin", each.origin.join(", ")], ["result", each.types.join("\n")], ["grid", each.quant.join("\n")],
      ["macs", each.macs ? grouped(each.macs) : ""], ["parameters", each.parameter_bytes ? `${grouped(each.parameter_bytes)} B` : ""],
      ["time", this.time(each)], [each.error && each.error.view !== "simulator" ? "error_fake" : "error", this.error(each.error)], ["own", this.own(each.own)],
      ["layer", each.layer ? words.of("layer_text", short(100 * each.layer.share), each.layer.max) : ""],
    ];
    const folds = this.actions.enclosing(each.path).map((module) =>
      element("button", { type: "button", onclick: () => this.actions.fold(module) }, words.of("fold_module", module)));
    this.holder.replaceChildren(
      element("h2", { class: each.device }, each.where), element("p", { class: "tools" }, ...folds),
      element("div", { class: "columns" }, this.facts(rows), this.histogram(each.histogram)), this.history(index));
  }

  facts(rows) {
    const shown = rows.filter(([, value]) => value);
    return element("dl", {}, ...shown.flatMap(([key, value]) => [element("dt", {}, words.of(key)), element("dd", {}, value)]));
  }

  time(each) {
    if (each.ms === undefined) return "";
    return each.together > 1 ? words.of("together", short(each.ms), each.together) : words.of("alone", short(each.ms));
  }

  error(found) {
    if (!found) return "";
    return words.of("error_text", found.sqnr === null ? "∞" : short(found.sqnr), found.cosine.toFixed(5), short(found.max_error), short(found.max_steps));
  }

  own(found) {
    if (!found) return "";
    const decibels = (value) => (value === null ? "∞" : short(value));
    const share = (value) => (100 * value).toFixed(0);
    const split = words.of("own_split", share(found.clipping), share(found.activation_rounding), share(found.weight_rounding));
    return `${words.of("own_text", decibels(found.sqnr), decibels(found.inherited), decibels(found.cost), found.rank ?? "–")}\n${split}`;
  }

  histogram(found) {
    if (!found) return element("div");
    const width = (found.high - found.low) / found.float.length;
    const bars = ["float", "quantized"].flatMap((kind) =>
      found[kind].map((count, i) => ({ kind: words.of(kind), x1: found.low + i * width, x2: found.low + (i + 1) * width, count })));
    const inside = (found.clip || []).filter((edge) => edge >= found.low - width && edge <= found.high + width);
    const drawn = Plot.plot({
      width: Math.min(560, this.holder.clientWidth - 24), height: 240, marginLeft: 48, y: { type: "sqrt", grid: true, label: null }, x: { label: null },
      color: { legend: true, domain: [words.of("float"), words.of("quantized")], range: ["#8a97a8", "#2f7ed8"] },
      marks: [
        Plot.rect(bars, { x1: "x1", x2: "x2", y1: 0, y2: "count", fill: "kind", fillOpacity: 0.55, mixBlendMode: "normal" }),
        Plot.ruleX(inside, { stroke: "#d9302c", strokeWidth: 2, strokeDasharray: "4 3" }),
        Plot.ruleY([0]),
      ],
    });
    const clip = found.clip ? words.of("clip_range", short(found.clip[0]), short(found.clip[1])) : "";
    return element("figure", { class: "histogram" }, element("figcaption", {}, words.of("histogram")), drawn, element("p", { class: "clip" }, clip));
  }

  /** The operation's lines, at each pass that changed them. */
  history(index) {
    const { steps, lines } = this.data.passes;
    const blocks = [];
    let before = [];
    steps.forEach((step, number) => {
      const now = step.owners.filter(([, ...owners]) => owners.includes(index)).map(([line]) => step.text[line]);
      const removed = step.name === "input" ? [] : before.filter((line) => !now.includes(line));
      const added = now.filter((line) => step.name === "input" || !before.includes(line));
      if (removed.length || added.length) {
        const title = element("button", { type: "button", class: "link", onclick: () => this.actions.showPass(number) }, passTitle(step));
        const text = [...removed.map((line) => diffLine("-", lines[line])), ...added.map((line) => diffLine("+", lines[line]))];
        blocks.push(element("div", { class: "step" }, title, element("pre", {}, ...text)));
      }
      before = now;
    });
    return element("details", { open: "" }, element("summary", {}, words.of("through")), ...blocks);
  }
}

const passTitle = (step) => `${step.pipeline}: ${step.name}`;
const diffLine = (sign, text) => element("span", { class: sign === "+" ? "added" : sign === "-" ? "removed" : "same" }, `${sign} ${text}\n`);
