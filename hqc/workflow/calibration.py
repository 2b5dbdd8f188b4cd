"""Run calibration data through a prepared model: checks, progress, and the states before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.errors import CalibrationError
from hqc.quantization.state import FakeQuantState, set_fake_quantize
from hqc.workflow.arguments import as_tuple

Progress = Callable[[int, "int | None"], None]


def calibrate(prepared: nn.Module, data: Iterable[Any], *, progress: Progress | bool = False) -> None:
    """Observe `data` (batches) and leave the model with fixed scales, fake quants on.

    `progress`: True shows a progress bar; a callable gets `(batches done, total or None)`. The train/eval mode is not touched:
    call `eval()` before when the model has batch norm or dropout. `CalibrationError` for no data, a batch that is not finite, or
    one that the model cannot take.
    """
    if isinstance(data, (torch.Tensor, np.ndarray)):
        data = [data]
    total = len(data) if isinstance(data, Sized) else None
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    count = 0
    with torch.no_grad(), _reporter(progress, total) as report:
        for count, batch in enumerate(data, start=1):
            args = as_tuple(batch)
            tensors = pytree.tree_map(as_float32, list(args or ()))
            for leaf in pytree.tree_leaves(tensors):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                    raise CalibrationError(f"calibration batch {count} holds NaN or infinite values; clean the data")
                if isinstance(leaf, torch.Tensor) and leaf.numel() == 0:
                    raise CalibrationError(f"calibration batch {count} is empty (shape {list(leaf.shape)})")
            try:
                prepared(*tensors)
            except (RuntimeError, TypeError) as error:
                shapes = [list(leaf.shape) for leaf in pytree.tree_leaves(tensors) if isinstance(leaf, torch.Tensor)]
                reason = str(error).splitlines()[0]
                raise CalibrationError(
                    f"calibration batch {count} with shapes {shapes} does not fit the model: {reason}"
                ) from error
            report(count, total)
    if count == 0:
        raise CalibrationError("calibration_data is empty; give at least one batch of real inputs")
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)


def as_float32(value: Any) -> Any:
    """float32 for floating arrays, tensors as they are, anything else unchanged."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.asarray(value, dtype=np.float32 if value.dtype.kind == "f" else value.dtype, order="C"))
    if isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.float16, torch.bfloat16):
        return value.float()
    return value


@contextmanager
def _reporter(progress: Progress | bool, total: int | None) -> Iterator[Progress]:
    """`progress` as a callable; True becomes a bar with rate and remaining time."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("calibrating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("calibrating", total=total)
        yield lambda done, total: bar.update(task, completed=done)
