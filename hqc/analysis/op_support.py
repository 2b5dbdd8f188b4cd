"""The support matrix, for `hqc ops` and for docs/op_support.md: generated from the rules, never written by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

import hqc.passes.divisor_lengths  # noqa: F401  # registers its rules
from hqc.errors import InputError
from hqc.ir import all_ops
from hqc.march import all_specs, get_spec
from hqc.march.bindings import BINDINGS
from hqc.march.contradictions import DECISIONS
from hqc.march.rules import EVERYWHERE, Entry, OpRules
from hqc.march.spec import MarchSpec
from hqc.near_names import suggest
from hqc.passes.support_context import RULES

_WORDS = {
    "BPU": "BPU",
    "BPU_FUSED": "BPU (fused, or as a unit convolution)",
    "BPU_OPT_IN": "BPU on request",
    "CPU": "CPU",
    "CPU_UNIMPL": "CPU",
    "UNSUPPORTED": "CPU",
    "REMOVED": "removed",
    "FOLD": "folded",
}
_RANK = ("CPU", "BPU on request", "BPU (fused, or as a unit convolution)", "BPU")


def documented_ops() -> list[str]:
    """Ops that the table lists: all but those that passes make for themselves."""
    return [op.name for op in all_ops() if not BINDINGS[op.name].internal]


def _device(rules: OpRules, *, hybrid: bool) -> str:
    """The word for an op on a march; a spelled-out op is as good as its worst part, one of several forms as its best."""
    if rules.binding.never:
        return "CPU"
    words = [_WORDS[entry.row.device] for entry in rules.all_entries(hybrid=hybrid)]
    if not words:
        return "CPU"
    spelled_out = hybrid and len(rules.binding.onnx) > 1 and rules.binding.choose is None
    return (min if spelled_out else max)(words, key=_RANK.index)


def _limits(entry: Entry) -> str:
    return "; ".join(rule.statement for rule in entry.rules)


def _details(rules: OpRules, *, hybrid: bool) -> str:
    if rules.binding.never:
        return rules.binding.never
    parts = []
    entries = rules.all_entries(hybrid=hybrid)
    for entry in entries:
        limits = _limits(entry) if entry.row.on_bpu else f"{entry.row.op} runs on the CPU"
        if limits:
            parts.append(f"{entry.row.op}: {limits}" if len(entries) > 1 and entry.row.on_bpu else limits)
    return ". ".join(parts) if parts else "no limit stated" if entries else "not in the tables"


def _chosen(names: Sequence[str]) -> list[str]:
    known = documented_ops()
    for name in names:
        if name not in known:
            raise InputError(f"the IR has no op {name!r}{suggest(name, known)}")
    return [name for name in known if not names or name in names]


def support_table(march: str | None = None, names: Sequence[str] = ()) -> Table:
    """The matrix of ops by march, or with `march` every op's limits there; `names` restricts it to some ops.

    `MarchError` and `InputError` (with near names) for unknown ones.
    """
    chosen = _chosen(names)
    if march is None:
        table = Table(title="Where ops run with hybrid=True", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("op", no_wrap=True)
        for each in all_specs():
            table.add_column(each.name)
        for name in chosen:
            table.add_row(name, *(_device(spec.rules[name], hybrid=True) for spec in all_specs()))
        return table
    spec = get_spec(march)
    title = f"Op support of {spec.title} ({', '.join(spec.chips)})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("op", no_wrap=True)
    for column in ("hybrid=True", "limits", "hybrid=False"):
        table.add_column(column, overflow="fold")
    for name in chosen:
        rules = spec.rules[name]
        table.add_row(name, _device(rules, hybrid=True), _details(rules, hybrid=True), _device(rules, hybrid=False))
    return table


# --- docs/op_support.md ----------------------------------------------------------------------------------------------------

_INTRO = """# Op support

*Generated from the rules in `hqc/march` by `python -m hqc.analysis.op_support`; a test fails when this page is stale.*

Where each op of the IR runs, and the limits within which the BPU takes it. With `hybrid=True` (and in `hqc.compile`) the
vendor's ONNX table decides device and limits, the torch table adds dtypes (int16) and ops that the other lacks; with
`hybrid=False` the torch table decides. `bernoulli` has no public table: its rows are assumed from bernoulli2's. Limits on the
batch are judged as if the model had batch 1, which is what the chip runs.
"""


def op_support_markdown() -> str:
    """The text of docs/op_support.md."""
    parts = [_INTRO, _overview(), _everywhere(), _contradictions()]
    parts += [_march_section(spec) for spec in all_specs()]
    return "\n".join(parts)


def _overview() -> str:
    lines = [
        "## Overview (hybrid=True)",
        "",
        f"| op | {' | '.join(spec.name for spec in all_specs())} |",
        "|---|---|---|---|---|",
    ]
    for name in documented_ops():
        lines.append(f"| `{name}` | {' | '.join(_device(spec.rules[name], hybrid=True) for spec in all_specs())} |")
    return "\n".join([*lines, ""])


def _everywhere() -> str:
    lines = ["## Rules of every march", "", "Step *capability*:", ""]
    lines += [f"* {rule.statement}" for rule in EVERYWHERE]
    lines += ["", "Step *context* (what the neighbours say; `hybrid=True` only):", ""]
    lines += [f"* {rule.statement}" for rule in RULES]
    return "\n".join([*lines, ""])


def _contradictions() -> str:
    lines = ["## Contradictions, and how they are decided", "", "| what | the sources say | hqc decides |", "|---|---|---|"]
    lines += [f"| {each.subject} | {each.sources} | {each.decision} |" for each in DECISIONS]
    return "\n".join([*lines, ""])


def _march_section(spec: MarchSpec) -> str:
    lines = [f"## {spec.name}", "", f"{spec.title}: {', '.join(spec.chips)}.", ""]
    flags = {
        "Holds 4-D tensors only; results of products with constant weights stay 4-D.": spec.four_d,
        "A flatten of maps of at most 7x7 before a linear layer, and the change of rank behind a product with a vector, belong to the "
        "product.": spec.four_d,
        "Ops that only move data need a user on the BPU (calibrated models).": spec.passive_needs_consumer,
        "A passive op between the CPU and a user on the BPU runs on the BPU.": spec.passive_follows_user,
        "Strided slices of the model's input are the CPU's.": spec.strided_input_slices_on_cpu,
        "The flatten behind the last convolution is the CPU's.": spec.final_flatten_on_cpu,
    }
    lines += [f"* {text}" for text, holds in flags.items() if holds]
    lines += [
        f"* {rule.statement} ({', '.join(f'`{op}`' for op in _few(rule.ops))}). Source: {rule.source}."
        for rule in spec.node_rules
    ]
    lines += ["", "| op | hybrid=True | limits | hybrid=False | limits (torch table) | source |", "|---|---|---|---|---|---|"]
    for name in documented_ops():
        rules = spec.rules[name]
        entries = [*rules.all_entries(), *rules.all_entries(hybrid=False)]
        sources = dict.fromkeys(f"{entry.row.source}{' (assumed)' if entry.row.assumed else ''}" for entry in entries)
        cells = (
            f"`{name}`",
            _device(rules, hybrid=True),
            _details(rules, hybrid=True),
            _device(rules, hybrid=False),
            _details(rules, hybrid=False),
            "; ".join(sources),
        )
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _few(ops: frozenset[str]) -> list[str]:
    ordered = sorted(ops)
    return ordered if len(ordered) <= 6 else [*ordered[:4], "..."]


def main() -> None:
    """Write the page: `python -m hqc.analysis.op_support [PATH]`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/op_support.md"))
    parser.parse_args().path.write_text(op_support_markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
