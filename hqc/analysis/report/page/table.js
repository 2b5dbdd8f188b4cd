"use strict";
// The operations as a table, one line a row, that sorts and filters.
function operationTable(holder, operations, chips, onSelect) {
  const known = (key) => operations.some((each) => each[key] !== undefined && each[key] !== null);
  const number = { hozAlign: "right", headerHozAlign: "right", sorter: "number" };
  const column = (key, value, more) => ({ title: words.of(key), field: key, accessor: value, headerTooltip: true, ...more });
  const columns = [
    column("operation", (each) => each.where, { frozen: window.innerWidth > 700, width: 170, headerFilter: "input", cssClass: "code" }),
    column("op", (each) => each.op, { width: 90, headerFilter: "input" }),
    column("device", (each) => placed(each), { width: 84, headerFilter: "input" }),
    column("macs", (each) => each.macs, { ...number, width: 104, formatter: (cell) => (cell.getValue() ? grouped(cell.getValue()) : "") }),
  ];
  if (known("error")) {
    columns.push(column("sqnr", (each) => each.error?.sqnr, { ...number, width: 104, formatter: (cell) => fixed(cell.getValue(), 1) }));
    columns.push(column("steps", (each) => each.error?.max_steps, { ...number, width: 150, formatter: (cell) => fixed(cell.getValue(), 2) }));
  }
  if (known("own")) {
    columns.push(column("rank", (each) => each.own?.rank, { ...number, width: 92 }));
    columns.push(column("clipped", (each) => (each.own ? 100 * each.own.clipped : null), { ...number, width: 96, formatter: (cell) => fixed(cell.getValue(), 2) }));
  }
  if (known("ms")) columns.push(column("ms", (each) => (each.ms === undefined ? null : each.ms / each.together), { ...number, width: 70, formatter: (cell) => fixed(cell.getValue(), 3) }));
  columns.push(column("scale", (each) => each.scale, { ...number, width: 100, formatter: (cell) => short(cell.getValue()) }));
  chips.forEach((chip, index) =>
    columns.push({ title: chip.march, field: `chip${index}`, accessor: (each) => each.chips[index], width: 96, headerFilter: "input" }));
  columns.push(column("why", (each) => each.why.map((text) => words.said(text)).join("; "), { minWidth: 260, headerFilter: "input" }));
  columns.push(column("source", (each) => each.source, { width: 150, headerFilter: "input", cssClass: "code" }));
  const rows = operations.map((each, id) => {
    const row = { id };
    columns.forEach((one) => (row[one.field] = one.accessor(each) ?? null));
    return row;
  });
  columns.forEach((one) => {
    delete one.accessor;
    if (one.headerFilter) one.headerFilterPlaceholder = words.of("filter");
    one.tooltip = true;
  });
  const table = new Tabulator(holder, {
    data: rows, columns, height: "100%", layout: "fitDataFill", printAsHtml: true, selectableRows: 1, columnDefaults: { resizable: true },
    rowFormatter: (row) => row.getElement().classList.add(operations[row.getData().id].device),
  });
  table.on("rowClick", (_, row) => onSelect(row.getData().id));
  return table;
}

const fixed = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));
const placed = (each) => (each.subgraph === null ? each.device.toUpperCase() : `BPU ${each.subgraph}`);
