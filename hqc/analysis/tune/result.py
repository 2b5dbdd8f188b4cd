"""What tuning found: as objects, a table, and a file of settings to use from now on."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hqc.analysis.compare.outputs import STYLE
from hqc.analysis.tune.changes import Change
from hqc.analysis.tune.measure import Measured
from hqc.checked import explained
from hqc.files import write_file
from hqc.workflow.compile import Compiled


@explained
@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one operation alone leaves of the score."""

    where: str
    score: float
    cause: str


@explained
@dataclass(frozen=True)
class Step:
    """A change that was kept. `before`, `after`: the model without it, and with it and all before it."""

    change: Change
    before: Measured
    after: Measured

    @property
    def score(self) -> float:
        """With the change."""
        return self.after.score

    @property
    def gain(self) -> float:
        """What it brought."""
        return self.after.score - self.before.score

    def __str__(self) -> str:
        before, after = self.before, self.after
        costs = [
            f"{what} {now:,} -> {then:,}"
            for what, now, then in (
                ("CPU MACs", before.cpu_macs, after.cpu_macs),
                ("crossings", before.crossings, after.crossings),
                ("bytes across", before.crossing_bytes, after.crossing_bytes),
            )
            if now != then
        ]
        cost = f" ({', '.join(costs)})" if costs else ""
        return f"{self.change}: {before.score:.4g} -> {after.score:.4g}, a gain of {self.gain:.3g}{cost}"


@explained
@dataclass(frozen=True)
class TuneResult:
    """`real`: score of the float model; `as_it_was`, `as_it_is`: the simulator without and with the changes, and what it costs.
    `threshold`: what was asked.

    `hybrid_dict`, `qconfig_dict`: what to give to `hqc.compile` to get `compiled`. `tried`: configurations that were measured.
    """

    real: float
    as_it_was: Measured
    as_it_is: Measured
    threshold: float
    steps: tuple[Step, ...]
    sensitivity: tuple[Sensitivity, ...]
    hybrid_dict: dict[str, Any]
    qconfig_dict: dict[str, Any]
    compiled: Compiled
    tried: int

    @property
    def before(self) -> float:
        """The score without the changes."""
        return self.as_it_was.score

    @property
    def after(self) -> float:
        """The score with them."""
        return self.as_it_is.score

    @property
    def reached(self) -> bool:
        return self.after >= self.threshold

    def table(self, limit: int | None = 10) -> Table:
        """The most sensitive operations."""
        table = Table(title="Operations by the score where each alone is quantized", **STYLE)
        table.add_column("operation", overflow="fold", min_width=16)
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column("cause", no_wrap=True)
        for row in self.sensitivity[:limit]:
            table.add_row(Text(row.where), f"{row.score:.4g}", row.cause)
        return table

    def __str__(self) -> str:
        lines = [f"float {self.real:.4g}, quantized {self.before:.4g}, asked for {self.threshold:.4g}"]
        lines += list(map(str, self.steps))
        verdict = "reached" if self.reached else "not reached: nothing that was allowed gains more"
        return "\n".join(
            [*lines, f"{self.after:.4g} with {len(self.steps)} changes, {self.tried} configurations measured: {verdict}"]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data: scores, changes, sensitivities, `hybrid_dict`."""
        return {
            "float": self.real,
            "before": self.before,
            "after": self.after,
            "threshold": self.threshold,
            "reached": self.reached,
            "tried": self.tried,
            "costs": {"before": asdict(self.as_it_was), "after": asdict(self.as_it_is)},
            "changes": [
                {**asdict(step.change), "score": step.score, "gain": step.gain, "costs": asdict(step.after)}
                for step in self.steps
            ],
            "sensitivity": [asdict(row) for row in self.sensitivity],
            "hybrid_dict": self.hybrid_dict,
        }

    def settings(self) -> str:
        """Python source of `hybrid_dict` and of the entries that `qconfig_dict` needs."""
        lines = [f'"""Found by hqc tune: {self.before:.4g} -> {self.after:.4g} (float {self.real:.4g})."""', ""]
        observers = {step.change.module: step.change.detail for step in self.steps if step.change.kind == "observer"}
        if observers:
            lines += ["from hqc.quantization import get_default_qconfig", ""]
        lines.append(f"hybrid_dict = {self.hybrid_dict!r}")
        if observers:
            default = 'get_default_qconfig(activation_observer="mse", weight_observer="mse")'
            entries = [
                f'        {module!r}: get_default_qconfig(activation_observer="{name}", weight_observer="mse"),'
                for module, name in observers.items()
            ]
            lines += ["qconfig_dict = {", f'    "": {default},', '    "module_name": {', *entries, "    },", "}"]
        else:
            lines.append("qconfig_dict = None")
        return "\n".join(lines) + "\n"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write `settings` to a Python file; `InputError` when it cannot be written."""
        return write_file(path, self.settings().encode())
