"use strict";
// The IR before and after every pass: what changed, or the whole text, of the model or of one operation.
const CONTEXT = 2;

class PassView {
  constructor(data) {
    this.data = data;
    this.index = Math.max(0, data.steps.length - 1);
    this.operation = null;
    this.pass = document.getElementById("pass");
    this.view = document.getElementById("view");
    this.only = document.getElementById("only");
    this.pass.replaceChildren(...data.steps.map((step, number) => element("option", { value: number }, `${number}. ${passTitle(step)} (+${this.added(step)})`)));
    this.pass.onchange = () => this.show(Number(this.pass.value));
    this.view.onchange = this.only.onchange = () => this.show(this.index);
    document.getElementById("previous").onclick = () => this.show(Math.max(0, this.index - 1));
    document.getElementById("next").onclick = () => this.show(Math.min(data.steps.length - 1, this.index + 1));
    const changed = data.steps.findIndex((step) => step.changes.length);
    this.show(Math.max(0, changed));
  }

  added(step) {
    return step.changes.reduce((sum, [, , from, to]) => sum + to - from, 0);
  }

  select(operation) {
    this.operation = operation;
    this.show(this.index);
  }

  show(index) {
    this.index = index;
    this.pass.value = index;
    const step = this.data.steps[index];
    const before = step.name === "input" ? null : this.data.steps[index - 1];
    const rows = this.view.value === "text" || !before ? this.text(step) : this.diff(before, step);
    const holder = document.getElementById("ir");
    holder.replaceChildren(...rows.map(([sign, line, gap]) => (gap ? element("span", { class: "gap" }, "⋮\n") : diffLine(sign, this.data.lines[line]))));
    if (!rows.length) holder.textContent = words.of("no_change");
    const removed = step.changes.reduce((sum, [from, to]) => sum + to - from, 0);
    document.getElementById("count").textContent = before ? words.of("changed_lines", removed, this.added(step)) : "";
  }

  /** Line numbers of the selected operation in a step, or null where all lines count. */
  mine(step) {
    if (!this.only.checked || this.operation === null) return null;
    return new Set(step.owners.filter(([, ...owners]) => owners.includes(this.operation)).map(([line]) => line));
  }

  text(step) {
    const mine = this.mine(step);
    return step.text.map((line, at) => [" ", line, false, at]).filter(([, , , at]) => !mine || mine.has(at));
  }

  diff(before, step) {
    const gone = this.mine(before);
    const come = this.mine(step);
    const rows = [];
    let end = 0;
    for (const [i1, i2, j1, j2] of step.changes) {
      if (!gone && i1 - CONTEXT > end) rows.push([" ", 0, true]);
      if (!gone) for (let i = Math.max(end, i1 - CONTEXT); i < i1; i++) rows.push([" ", before.text[i]]);
      for (let i = i1; i < i2; i++) if (!gone || gone.has(i)) rows.push(["-", before.text[i]]);
      for (let j = j1; j < j2; j++) if (!come || come.has(j)) rows.push(["+", step.text[j]]);
      end = i2;
      if (!gone) {
        const stop = Math.min(before.text.length, i2 + CONTEXT);
        const next = step.changes.find(([from]) => from >= i2);
        for (; end < (next ? Math.min(stop, next[0]) : stop); end++) rows.push([" ", before.text[end]]);
      }
    }
    return rows;
  }
}
