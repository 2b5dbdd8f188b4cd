"""What a simulated model answers, output by output: for models that were saved, which have no float model beside them. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table
from rich.text import Text

from hqc.checked import BATCHES, SEEDS, check_within
from hqc.workflow.loaded import LoadedModel


@dataclass
class OutputSummary:
    """One output over all samples. `shape`: of one batch. `array`: all results, `[samples, ...]`."""

    name: str
    shape: tuple[int, ...]
    array: npt.NDArray[Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the results themselves."""
        low, mean, high = self._numbers()
        return {"name": self.name, "shape": list(self.shape), "min": low, "mean": mean, "max": high}

    def _numbers(self) -> tuple[float, float, float]:
        wide = self.array.astype(np.float64)
        return float(wide.min()), float(wide.mean()), float(wide.max())

    def cells(self) -> tuple[Text, str, str, str, str]:
        """As a row of `summary_table`."""
        low, mean, high = (f"{number:.6g}" for number in self._numbers())
        return Text(self.name), str(list(self.shape)), low, mean, high


def simulate_all(
    model: LoadedModel, batches: Iterable[Mapping[str, Any]], progress: Callable[[int, int | None], None] | None = None
) -> list[OutputSummary]:
    """Simulate batches (arrays by input name; at least one). `progress`: gets `(batches done, None)`."""
    found: list[list[npt.NDArray[Any]]] = []
    for number, batch in enumerate(batches, start=1):
        found.append(model.run([batch[value.name] for value in model.graph.inputs]))
        if progress is not None:
            progress(number, None)
    return [
        OutputSummary(name, parts[0].shape, np.concatenate(parts) if parts[0].ndim else np.stack(parts))
        for name, parts in zip(model.graph.output_names, zip(*found, strict=True), strict=True)
    ]


def random_batch(model: LoadedModel, batch: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the compiled shapes with another batch size: reals uniform in [0, 1), integers 0 or 1, which are valid as indices."""
    check_within("batch", batch, BATCHES)
    check_within("seed", seed, SEEDS)
    generator = np.random.default_rng(seed)
    found = {}
    for value in model.graph.inputs:
        drawn = generator.random((batch, *(value.shape or (1,))[1:]), np.float32)
        found[value.name] = drawn if value.type.dtype.is_float else (drawn > 0.5).astype(value.type.dtype.numpy)
    return found


def summary_table(found: Iterable[OutputSummary], title: str) -> Table:
    """Range and mean of every output."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("output", overflow="fold")
    for column in ("shape", "min", "mean", "max"):
        table.add_column(column, justify="left" if column == "shape" else "right", overflow="fold")
    for each in found:
        table.add_row(*each.cells())
    return table
