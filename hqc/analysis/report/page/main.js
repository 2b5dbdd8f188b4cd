"use strict";
// Unpacks the page's libraries and data, and connects its parts.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
}

class Report {
  constructor(data) {
    this.data = data;
    words.chinese = data.chinese;
    if (data.language === "zh") words.language = "zh";
    this.chosen = null;
    this.picture = new GraphPicture(document.getElementById("picture"), data.picture, data.operations, (found) => this.select(found, "picture"));
    this.panel = new OperationPanel(document.getElementById("operation"), data, {
      enclosing: (module) => this.picture.enclosing(`${module}.`),
      fold: (module) => this.picture.fold(module),
      showPass: (number) => {
        this.passes.show(number);
        document.getElementById("ir").scrollIntoView({ block: "center" });
      },
    });
  }

  start() {
    this.tools();
    this.translate();
    this.picture.start();
    document.documentElement.dataset.ready = "true";
  }

  /** (Re)build everything that holds words. */
  translate() {
    words.apply();
    document.getElementById("language").value = words.language;
    this.figures();
    this.chips();
    this.lists();
    this.table?.destroy();
    const choose = (index) => this.select({ box: this.data.operations[index].box, operation: index }, "table");
    this.table = operationTable(document.getElementById("table"), this.data.operations, this.data.chips, choose);
    this.passes = new PassView(this.data.passes);
    this.show();
  }

  tools() {
    const on = (id, work) => (document.getElementById(id).onclick = work);
    on("zoom-in", () => this.picture.zoomBy(1.4));
    on("zoom-out", () => this.picture.zoomBy(1 / 1.4));
    on("fit", () => this.picture.fit());
    on("fold", () => this.picture.foldAll());
    on("unfold", () => this.picture.unfoldAll());
    on("print", () => window.print());
    on("theme", () => {
      const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
      document.documentElement.dataset.theme = dark ? "light" : "dark";
    });
    document.getElementById("language").onchange = (event) => {
      words.language = event.target.value;
      this.translate();
    };
    const search = document.getElementById("search");
    let next = 0;
    search.oninput = () => {
      next = 0;
      const found = this.picture.search(search.value);
      document.getElementById("matches").textContent = search.value.trim() ? words.of("matches", found.length) : "";
      if (found.length) this.choose(found[0]);
    };
    search.onkeydown = (event) => {
      if (event.key !== "Enter" || !this.picture.matched.length) return;
      next = (next + (event.shiftKey ? this.picture.matched.length - 1 : 1)) % this.picture.matched.length;
      this.choose(this.picture.matched[next]);
    };
  }

  choose(operation) {
    this.select({ box: this.data.operations[operation].box, operation }, "search");
  }

  select(found, from) {
    this.chosen = found;
    this.picture.select(found.box, from !== "picture");
    this.passes.select(found.operation >= 0 ? found.operation : null);
    this.show();
    if (found.operation < 0) return this.table.deselectRow();
    this.table.deselectRow();
    this.table.selectRow(found.operation);
    if (from !== "table") this.table.scrollToRow(found.operation, "center", false).catch(() => {}); // a filter may hide the row
  }

  show() {
    if (this.chosen === null) this.panel.empty();
    else if (this.chosen.operation >= 0) this.panel.operation(this.chosen.operation);
    else this.panel.boundary(this.chosen.box);
  }

  figures() {
    const { totals, measured } = this.data;
    const tiles = [
      [percent(totals.share), words.of("f_share"), ""],
      [totals.bpu_nodes, words.of("f_bpu", totals.subgraphs), "bpu"],
      [totals.cpu_nodes, words.of("f_cpu"), totals.cpu_nodes ? "cpu" : ""],
      [totals.crossings, words.of("f_crossings", grouped(totals.crossing_bytes)), ""],
    ];
    if (measured) {
      if (measured.sqnr !== undefined) tiles.push([measured.sqnr === null ? "∞" : `${measured.sqnr.toFixed(1)} dB`, words.of("f_sqnr"), ""]);
      tiles.push([`${short(measured.ms)} ms`, words.of("f_ms"), ""]);
    }
    const made = tiles.map(([value, label, kind]) => element("div", { class: `figure ${kind}` }, element("b", {}, String(value)), element("span", {}, label)));
    document.getElementById("figures").replaceChildren(...made);
  }

  chips() {
    const columns = [
      ["march", (chip) => chip.march], ["bpu_ops", (chip) => grouped(chip.bpu_nodes)], ["cpu_ops", (chip) => grouped(chip.cpu_nodes)],
      ["share", (chip) => percent(chip.share)], ["subgraphs", (chip) => grouped(chip.subgraphs)],
      ["crossings", (chip) => grouped(chip.crossings)], ["bytes", (chip) => grouped(chip.crossing_bytes)],
    ];
    const head = element("tr", {}, ...columns.map(([key]) => element("th", {}, words.of(key))));
    document.getElementById("chips-section").hidden = !this.data.chips.length;
    const rows = this.data.chips.map((chip) =>
      element("tr", { class: chip.march === this.data.march ? "this" : "" }, ...columns.map(([, value]) => element("td", {}, value(chip)))));
    document.getElementById("chips").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  lists() {
    const { measured } = this.data;
    const notes = this.data.warnings.map((text) => words.said(text));
    if (!measured) notes.push(words.of("not_measured"));
    else if (!measured.real) notes.push(words.of("random_data"));
    document.getElementById("warnings").replaceChildren(...notes.map((text) => element("li", {}, text)));
    document.getElementById("advice-section").hidden = !this.data.advice.length;
    document.getElementById("advice").replaceChildren(...this.data.advice.map((text) => element("li", {}, words.said(text))));
    const remarks = this.data.remarks.map((each) => element("li", { class: each.severity }, words.said(each.text)));
    document.getElementById("remarks").replaceChildren(...(remarks.length ? remarks : [element("li", {}, words.of("none"))]));
    document.getElementById("made").textContent = words.of("made", this.data.version);
  }
}

(async () => {
  const libraries = await unpacked("libraries");
  for (const text of libraries) {
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
  }
  window.report = new Report(await unpacked("data"));
  window.report.start();
})();
