"""The vendor's op tables as data (`data/op_support.csv`): one row says what one march does with one ONNX or torch op.

A march without a public table assumes another's: its rows are the other's `BPU` and `BPU_FUSED` rows with their limits, and say from
which march they are assumed; everything else is on its CPU.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal

Table = Literal["onnx", "torch"]

BPU_DEVICES = ("BPU", "BPU_FUSED", "BPU_OPT_IN")


@dataclass(frozen=True)
class Limit:
    """One entry of a row's limits: exactly one of a range, a value, a set of values, or a rule in words."""

    key: str
    minimum: int | None = None
    maximum: int | None = None
    equals: Any = None
    choices: tuple[Any, ...] = ()
    words: str = ""

    @classmethod
    def from_json(cls, key: str, data: Mapping[str, Any]) -> Limit:
        equals = data.get("eq")
        if key.endswith("_max"):  # the table writes "at most n" as a key with this suffix and one value
            return cls(key, maximum=equals)
        return cls(
            key,
            data.get("min"),
            data.get("max"),
            tuple(equals) if isinstance(equals, list) else equals,
            tuple(data.get("in", ())),
            data.get("rule", ""),
        )


@dataclass(frozen=True)
class Row:
    """What a table says about one op on one march. `dtypes_in`: as written, see `dtypes_of`. `device`: BPU, BPU_FUSED, BPU_OPT_IN, CPU,
    CPU_UNIMPL, UNSUPPORTED, FOLD or REMOVED. `assumed`: the march whose row it is, where this one has no table."""

    table: Table
    op: str
    march: str
    device: str
    dtypes_in: str
    limits: tuple[Limit, ...]
    note: str
    source: str
    confidence: str
    assumed: str = ""

    def dtypes_of(self, operand: str) -> str:
        """The types of an operand as the table writes them: `qint8|qint16`. Rows that name operands (`x qint8, grid qint8|qint16`) say
        for those that they do not name what they say for the first."""
        named = [part.split() for part in self.dtypes_in.split(",")]
        by_name = {words[0]: words[1] for words in named if len(words) == 2}
        return by_name.get(operand, next(iter(by_name.values()), self.dtypes_in))

    @property
    def on_bpu(self) -> bool:
        return self.device in BPU_DEVICES


def _limits(text: str) -> tuple[Limit, ...]:
    data = json.loads(text) if text else {}
    # Conv of bayes and bayes-e has its limits one level deeper, for 2-D and 3-D; the IR has 2-D convolutions only.
    data = data.get("conv2d", data)
    return tuple(Limit.from_json(key, value) for key, value in data.items())


@functools.cache
def _all_rows() -> dict[tuple[str, str, str], Row]:
    rows: dict[tuple[str, str, str], Row] = {}
    text = resources.files("hqc.march").joinpath("data/op_support.csv").read_text(encoding="utf-8")
    for record in csv.DictReader(text.splitlines()):
        table: Table = "onnx" if record["table"] == "onnx" else "torch"
        row = Row(
            table,
            record["op"],
            record["march"],
            record["device"],
            record["dtypes_in"],
            _limits(record["limits_json"]),
            record["note"],
            record["source"],
            record["confidence"],
        )
        rows[table, row.march, row.op] = row
    return rows


@dataclass(frozen=True)
class MarchRows:
    """The rows of one march: its own, or those of `assumed_from` where it has no table."""

    march: str
    assumed_from: str = ""

    def find(self, table: Table, op: str) -> Row | None:
        """The row for `op` (an ONNX op name or a torch name), or None where the table has none."""
        row = _all_rows().get((table, self.assumed_from or self.march, op))
        if row is None or not self.assumed_from:
            return row
        device = row.device if row.device in ("BPU", "BPU_FUSED") else "CPU"
        return replace(row, march=self.march, device=device, assumed=self.assumed_from)


def find_row(table: Table, march: str, op: str) -> Row | None:
    """The row that `march` itself has for `op`, or None."""
    return MarchRows(march).find(table, op)
