"""The result of a comparison, as objects, a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from hqc.analysis.compare.distances import Distance
from hqc.analysis.compare.operations import OperationName
from hqc.analysis.compare.outputs import STYLE
from hqc.analysis.compare.own_error import OwnError
from hqc.checked import explained
from hqc.errors import InputError
from hqc.near_names import suggest


@explained
@dataclass(frozen=True)
class OperationComparison:
    """One operation. `distances`: by pair of views, the first is the reference; a view without this operation has no entries.

    `dtype`, `scale`: of its result's grid; empty and None where it has none. `own`: None for an operation that makes no error of its own.
    `rank`: 1 is the operation that costs most at the outputs; None without an own error.
    """

    name: OperationName
    dtype: str
    scale: float | None
    distances: dict[tuple[str, str], Distance]
    own: OwnError | None
    rank: int | None

    def distance(self, reference: str, view: str) -> Distance | None:
        return self.distances.get((reference, view))


@explained
@dataclass(frozen=True)
class OutputComparison:
    """One output of the model; `distances` as for operations."""

    name: str
    distances: dict[tuple[str, str], Distance]


@explained
@dataclass(frozen=True)
class Comparison:
    """Models beside each other, operation by operation, in program order. `views`: what was compared. `samples`: over how much data.

    `warnings`: what to know before trusting the numbers.
    """

    march: str
    views: tuple[str, ...]
    samples: int
    operations: tuple[OperationComparison, ...]
    outputs: tuple[OutputComparison, ...]
    warnings: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every pair of views, the reference first."""
        return list(itertools.combinations(self.views, 2))

    def ranked(self) -> list[OperationComparison]:
        """The operations with an error of their own, the most expensive first."""
        return sorted((row for row in self.operations if row.rank is not None), key=lambda row: row.rank or 0)

    def of(self, name: str) -> OperationComparison:
        """The operation that has this module path, traced name or IR name; of several, the last. `InputError` with near names."""
        found = [row for row in self.operations if row.name.is_called(name)]
        if not found:
            known = {each for row in self.operations for each in (row.name.module, row.name.name, *row.name.fx)}
            raise InputError(f"no operation of the comparison is called {name!r}{suggest(name, known - {''})}")
        return found[-1]

    # --- showing -----------------------------------------------------------------------------------------------------

    def table(self, limit: int | None = None) -> Table:
        """The ranking: what each operation costs, why, and how far its result is off; `limit`: rows at most."""
        rows = self.ranked()[:limit]
        title = f"Operations by what they cost on {self.march}, {_count(self.samples, 'sample')}"
        table = Table(title=title, padding=0, **STYLE)  # 80 columns hold all of it
        table.add_column("operation", overflow="fold", min_width=10)
        table.add_column("cause", min_width=10)
        table.add_column("grid", min_width=9)
        # Heads wrap word by word and numbers have no blanks: nothing is cut.
        for head, width in (
            ("dB at the outputs if it alone is quantized", 9),
            ("dB of its own error", 6),
            ("dB it inherited", 9),
            ("% values clipped", 7),
            ("% clip/ round/ weights", 8),
        ):
            table.add_column(head, justify="right", width=width)
        for row in rows:
            own = row.own
            assert own is not None
            split = "/".join(f"{100 * share:.0f}" for share in (own.clipping, own.activation_rounding, own.weight_rounding))
            table.add_row(
                _where(row.name),
                own.cause
                if own.shared_cost == own.cost
                else f"{own.cause}\n({_decibels(own.shared_cost)} on the scale it shares)",
                row.dtype if row.scale is None else f"{row.dtype} {row.scale:.4g}",
                *(_decibels(each).removesuffix(" dB") for each in (own.cost, own.sqnr, own.inherited)),
                f"{100 * own.clipped:.2f}",
                split,
            )
        return table

    def pair_table(self, reference: str, view: str) -> Table:
        """Cosine, SQNR and largest error of every operation and output in one pair of views, in program order.

        `InputError` for views that were not compared.
        """
        if (reference, view) not in self.pairs:
            known = "; ".join(" and ".join(pair) for pair in self.pairs)
            raise InputError(f"{reference} and {view} were not compared; there are {known}")
        table = Table(title=f"{view} beside {reference}, {_count(self.samples, 'sample')}", **STYLE)
        table.add_column("operation", overflow="fold", min_width=16)
        for title in ("cosine", "SQNR", "largest\nerror", "in steps"):
            table.add_column(title, justify="right", no_wrap=True)
        named = [(_where(row.name), row.distance(reference, view)) for row in self.operations]
        named += [(Text(f"output {row.name}", style="bold"), row.distances.get((reference, view))) for row in self.outputs]
        for name, found in named:
            if found is not None:
                cells = (f"{found.cosine:.5f}", _decibels(found.sqnr), f"{found.max_error:.4g}", f"{found.max_steps:.2f}")
                table.add_row(name, *cells)
        return table

    def csv(self) -> str:
        """One line per operation: names, grid, own error and its split, then the distances of every pair."""
        out = io.StringIO()
        measures = [f"{a}:{b}:{what}" for a, b in self.pairs for what in ("cosine", "sqnr", "max_error", "max_steps")]
        head = ["name", "op", "device", "module", "fx", "source", "dtype", "scale", "rank", *_OWN, *measures]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for row in self.operations:
            name = row.name
            own = [""] * len(_OWN) if row.own is None else [_cell(getattr(row.own, each)) for each in _OWN]
            found = [row.distances.get(pair) for pair in self.pairs]
            cells = [
                "" if each is None else _cell(getattr(each, what))
                for each in found
                for what in ("cosine", "sqnr", "max_error", "max_steps")
            ]
            grid = [row.dtype, "" if row.scale is None else _cell(row.scale), "" if row.rank is None else row.rank]
            writer.writerow([name.name, name.op, name.device, name.module, " ".join(name.fx), name.source, *grid, *own, *cells])
        return out.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Plain data; infinite decibels (no error at all) are None."""
        return {
            "march": self.march,
            "views": list(self.views),
            "samples": self.samples,
            "warnings": list(self.warnings),
            "operations": [
                {
                    **asdict(row.name),
                    "fx": list(row.name.fx),
                    "dtype": row.dtype,
                    "scale": row.scale,
                    "rank": row.rank,
                    "own": None if row.own is None else _finite(asdict(row.own)),
                    "distances": _distances(row.distances),
                }
                for row in self.operations
            ],
            "outputs": [{"name": row.name, "distances": _distances(row.distances)} for row in self.outputs],
        }

    def json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=1) + "\n"


_OWN = ("cost", "sqnr", "inherited", "clipped", "clipping", "activation_rounding", "weight_rounding", "cause", "shared_cost")


def _distances(distances: dict[tuple[str, str], Distance]) -> list[dict[str, Any]]:
    return [{"reference": a, "view": b, **_finite(asdict(each))} for (a, b), each in distances.items()]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def _where(name: OperationName) -> Text:
    text = Text(name.where)
    return text.append(f"\n{name.source}", style="dim") if name.source else text


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s'[: number != 1]}"
