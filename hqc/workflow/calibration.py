"""Run calibration data through a prepared model: checks, progress, and the states before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.errors import CalibrationError, InputError
from hqc.quantization.state import FakeQuantState
from hqc.quantization.switches import set_fake_quantize
from hqc.workflow.arguments import as_tuple, bind, input_names, tensors_of
from hqc.workflow.prepared import ObservedGraphModule

Progress = Callable[[int, "int | None"], None]
KEPT = 4
"""Calibration batches that a compiled model keeps, for verification."""


def calibrate(prepared: nn.Module, data: Iterable[Any], *, progress: Progress | bool = False) -> None:
    """Observe `data` (batches) and leave the model with fixed scales, fake quants on.

    A batch is a tensor, an array, a tuple of positional inputs, or a dict of inputs by name. `progress`: True shows a progress bar;
    a callable gets `(batches done, total or None)`. The train/eval mode is not touched: call `eval()` before when the model has
    batch norm or dropout. `CalibrationError` for no data, a batch that is not finite, or one that the model cannot take.
    """
    observe(prepared, data, progress=progress)


def observe(prepared: nn.Module, data: Iterable[Any], *, progress: Progress | bool = False) -> list[tuple[Any, ...]]:
    """As `calibrate`; returns the first `KEPT` batches as the arguments of forward, on the CPU."""
    if not isinstance(prepared, ObservedGraphModule):
        raise InputError(
            f"calibrate takes a model from prepare_calibration_fx or prepare_qat_fx, got {type(prepared).__name__}"
        )
    batches = _batches(data)
    total = len(batches) if isinstance(batches, Sized) else None
    device = next((tensor.device for tensor in (*prepared.parameters(), *prepared.buffers())), torch.device("cpu"))
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    count, kept = 0, []
    with torch.no_grad(), _reporter(progress, total) as report:
        for count, batch in enumerate(batches, start=1):
            arguments = _arguments(prepared, batch, count)
            if count <= KEPT:
                kept.append(arguments)
            moved = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), list(arguments))
            try:
                prepared(*moved)
            except (RuntimeError, TypeError) as error:
                shapes = [list(tensor.shape) for tensor in tensors_of(arguments)]
                reason = str(error).splitlines()[0]
                raise CalibrationError(
                    f"calibration batch {count} with shapes {shapes} does not fit the model: {reason}"
                ) from error
            report(count, total)
    if count == 0:
        raise CalibrationError("calibration_data is empty; give at least one batch of real inputs")
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return kept


def batches_of(prepared: ObservedGraphModule, data: Any) -> Iterator[tuple[Any, ...]]:
    """Data as users give it, each batch as the arguments of forward; `CalibrationError` for one that the model cannot take."""
    for count, batch in enumerate(_batches(data), start=1):
        yield _arguments(prepared, batch, count)


def _batches(data: Any) -> Iterable[Any]:
    """`data` as batches: one tensor, array or dict is one batch."""
    if isinstance(data, (torch.Tensor, np.ndarray, Mapping)):
        return [data]
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        got = repr(data) if isinstance(data, (str, bytes, int, float, type(None))) else f"a {type(data).__name__}"
        raise CalibrationError(
            "calibration_data is a list (or another iterable, such as a DataLoader) of batches: tensors, arrays, tuples of inputs, or "
            f"dicts of inputs by name; got {got}"
        )
    return data


def _arguments(prepared: ObservedGraphModule, batch: Any, count: int) -> tuple[Any, ...]:
    """The arguments of forward that a batch stands for; `CalibrationError` says what is wrong with the batch."""
    names = input_names(prepared)
    planned = prepared.preparation.inputs
    takes_dict = any(isinstance(each, Mapping) for each in (planned or ())[:1])
    if isinstance(batch, Mapping) and not takes_dict and not set(batch) <= set(names):
        keys = ", ".join(map(str, batch))
        raise CalibrationError(f"calibration batch {count} has the inputs {keys}; the model takes {', '.join(names)}")
    try:
        arguments = bind(as_tuple(batch) or (), planned, names)
    except InputError as error:
        labels = isinstance(batch, (tuple, list)) and len(batch) > len(names)
        hint = "; leave labels out, e.g. [images for images, labels in loader]" if labels else ""
        raise CalibrationError(f"calibration batch {count}: {error}{hint}") from error
    tensors = tensors_of(arguments)
    if not tensors:
        raise CalibrationError(f"calibration batch {count} holds no tensor or array, but {type(batch).__name__} {batch!r:.60}")
    for tensor in tensors:
        if tensor.numel() == 0:
            raise CalibrationError(f"calibration batch {count} is empty (shape {list(tensor.shape)})")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(f"calibration batch {count} holds NaN or infinite values; clean the data")
    return arguments


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
