"""Run calibration data through a prepared model: checks, progress, and the states before and after."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hqc.checked import checked
from hqc.data import DataSpec, InputSpec, Preprocessing, load_samples
from hqc.data.items import LABELS, split_labels
from hqc.errors import FAULTS, CalibrationError, HqcError, InputError, first_line
from hqc.quantization.fake_quantize import fake_quants
from hqc.quantization.merging import (
    States,
    each_rank_for_itself,
    merge_observer_states,
    merge_over_ranks,
    observer_states,
    ranks,
)
from hqc.quantization.state import FakeQuantState
from hqc.quantization.switches import set_fake_quantize
from hqc.structures import map_structure, named_leaves
from hqc.workflow.arguments import as_tuple, bind, input_names, on_device_of, tensors_of
from hqc.workflow.kept_batches import KeptBatches
from hqc.workflow.plain_torch import plain_torch
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.workers import in_workers

Progress = Callable[[int, "int | None"], None]
KEPT = 4
"""Calibration batches that a compiled model keeps, for verification."""
PORTION = 4
"""Batches that a worker takes at a time."""


@dataclass
class Observed:
    """What calibration saw. `kept`: the first `KEPT` batches as the arguments of forward, on the CPU; `samples`: how many in all;
    `what`: where they came from, in words; `preprocessing`: by input, what was done to pictures."""

    kept: list[tuple[Any, ...]] = field(default_factory=list)
    samples: int = 0
    what: str = ""
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.samples} sample{'s'[: self.samples != 1]}{f' from {self.what}' if self.what else ''}"


@checked
@plain_torch()
def calibrate(prepared: nn.Module, data: Any, *, progress: Progress | bool = False, workers: int = 1) -> None:
    """Observe `data` and leave the model with fixed scales, fake quants on.

    `data`: batches, each a tensor, an array, a tuple of positional inputs (labels behind them are left out), or a dict of inputs by
    name (entries that are no inputs are left out); or a path, list of paths or `hqc.data.DataSpec`. `progress`: True shows a progress
    bar; a callable gets `(batches done, total or None)`. The train/eval mode is not touched: call `eval()` before when the model has
    batch norm or dropout. `workers`: processes that share the work (joblib). Under torch.distributed each rank gives the part of the
    data that is its own, and all ranks end with the scales of the whole; both give the scales of one process on all data, for every
    observer but moving averages. `CalibrationError` for no data, a batch that is not finite, or one that the model cannot take; a rank
    that fails fails all.
    """
    observe(prepared, data, progress=progress, workers=workers)


def observe(
    prepared: nn.Module,
    data: Any,
    *,
    progress: Progress | bool = False,
    preprocessing: Preprocessing | None = None,
    kept_for_tuning: KeptBatches | None = None,
    workers: int = 1,
) -> Observed:
    """As `calibrate`; `preprocessing`: of pictures that a path in `data` names; of batches, what was done to them already.

    `kept_for_tuning` is given every batch.
    """
    if not isinstance(prepared, ObservedGraphModule):
        raise InputError(
            f"calibrate takes a model from prepare_calibration_fx or prepare_qat_fx, got {type(prepared).__name__}"
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers is a number of processes from 1, got {workers!r:.80}")
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    found = Observed()
    with torch.no_grad(), each_rank_for_itself(prepared) if ranks() > 1 else nullcontext():
        count, failure = 0, None
        try:
            batches, total, found = _opened(prepared, data, preprocessing)
            with _reporter(progress, total) as report:
                for count in _observed(prepared, _bound_batches(prepared, batches, found, kept_for_tuning), workers):
                    report(count, total)
        except (CalibrationError, InputError) as error:
            if ranks() == 1:
                raise
            failure = error
        if ranks() > 1:
            count = merge_over_ranks(prepared, count, failure)
    if count == 0:
        raise CalibrationError("calibration_data is empty; give at least one batch of real inputs")
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    return found


def _bound_batches(
    prepared: ObservedGraphModule, batches: Iterable[Any], found: Observed, tuning: KeptBatches | None
) -> Iterator[tuple[Any, ...]]:
    """The batches as the arguments of forward; `found` keeps the first and counts."""
    for count, batch in enumerate(batches, start=1):
        arguments = _arguments(prepared, batch, count)
        found.samples += _size(arguments)
        if count <= KEPT:
            found.kept.append(arguments)
        if tuning is not None:
            tuning.add(arguments)
        yield arguments


def _observed(prepared: ObservedGraphModule, batches: Iterable[tuple[Any, ...]], workers: int) -> Iterator[int]:
    """Run the model on the batches; yields how many are done."""
    if workers == 1:
        for count, arguments in enumerate(batches, start=1):
            _run(prepared, arguments, count)
            yield count
        return
    states: list[States] = []
    done = 0
    for count, found in in_workers(_observed_alone, _blank(prepared), _portions(batches), workers):
        states.append(found)
        done += count
        yield done
    if states:
        merge_observer_states(prepared, states)


def _blank(prepared: ObservedGraphModule) -> ObservedGraphModule:
    """A copy whose activations were never seen; what is known of weights, and what is fixed, stays."""
    blank = copy.deepcopy(prepared)
    for name, fake_quant in fake_quants(blank):
        if not fake_quant.fixed and not name.endswith("weight_fake_quant"):
            fake_quant.activation_post_process.reset()
    return blank


def _portions(batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """A few batches at a time, with the number of the first one."""
    numbered, start = iter(batches), 1
    while portion := list(itertools.islice(numbered, PORTION)):
        yield start, portion
        start += len(portion)


def _observed_alone(blank: ObservedGraphModule, portion: tuple[int, list[tuple[Any, ...]]]) -> tuple[int, States]:
    """In a worker: what the observers see in these batches."""
    prepared = copy.deepcopy(blank)  # it is there for the next portion too
    start, batches = portion
    with torch.no_grad():
        for count, arguments in enumerate(batches, start=start):
            _run(prepared, arguments, count)
    return len(batches), observer_states(prepared)


def _run(prepared: ObservedGraphModule, arguments: tuple[Any, ...], count: int) -> None:
    moved = on_device_of(prepared, arguments)
    try:
        prepared(*moved)
    except HqcError:
        raise
    except FAULTS as error:
        shapes = [list(tensor.shape) for tensor in tensors_of(arguments)]
        raise CalibrationError(
            f"calibration batch {count} with shapes {shapes} does not fit the model: {first_line(error)}"
        ) from error


def batches_of(prepared: ObservedGraphModule, data: Any) -> Iterator[tuple[Any, ...]]:
    """Data as users give it, each batch as the arguments of forward; `CalibrationError` for one that the model cannot take."""
    for count, batch in enumerate(_opened(prepared, data, None)[0], start=1):
        yield _arguments(prepared, batch, count)


def _opened(
    prepared: ObservedGraphModule, data: Any, preprocessing: Preprocessing | None
) -> tuple[Iterable[Any], int | None, Observed]:
    """The batches of `data`, how many there are where that is known, and what they come from."""
    if not _names_files(data):
        batches = _batches(data)
        total = len(batches) if isinstance(batches, Sized) else None
        return batches, total, Observed(preprocessing=_of_pictures(prepared, preprocessing))
    planned = prepared.preparation.inputs
    if planned is None:
        raise InputError("data in files needs a model that was prepared with example_inputs, which say what the model takes")
    samples = load_samples(data, planned_specs(prepared), preprocessing=preprocessing)

    def arguments() -> Iterator[tuple[Any, ...]]:
        for batch in samples.batches():
            yield as_arguments(planned, batch)

    return arguments(), samples.batch_count(), Observed(what=samples.what, preprocessing=samples.preprocessing)


def _of_pictures(prepared: ObservedGraphModule, preprocessing: Preprocessing | None) -> dict[str, Preprocessing]:
    """What the user says was done to the pictures in batches: it holds for every input that is one."""
    if preprocessing is None:
        return {}
    return {spec.name: preprocessing.for_input(spec) for spec in planned_specs(prepared) if spec.channel_axis is not None}


def _names_files(data: Any) -> bool:
    """A path, paths by input name, a list of paths, or a `DataSpec`."""
    if isinstance(data, Mapping):
        return bool(data) and all(isinstance(value, (str, os.PathLike)) for value in data.values())
    if isinstance(data, (list, tuple)):
        return bool(data) and all(isinstance(value, (str, os.PathLike)) for value in data)
    return isinstance(data, (str, os.PathLike, DataSpec))


def planned_specs(prepared: ObservedGraphModule) -> tuple[InputSpec, ...]:
    """What a model that was prepared with example inputs takes, tensor by tensor."""
    named = [
        (name, leaf)
        for argument, structure in zip(input_names(prepared), prepared.preparation.inputs or (), strict=False)
        for name, leaf in named_leaves(structure, argument)
        if isinstance(leaf, torch.Tensor)
    ]
    first = next((leaf.shape[0] for _, leaf in named if leaf.ndim), None)
    return tuple(
        InputSpec(
            name,
            tuple(leaf.shape),
            torch.empty(0, dtype=leaf.dtype).numpy().dtype,
            batched=leaf.ndim > 0 and leaf.shape[0] == first,
        )
        for name, leaf in named
    )


def as_arguments(planned: Sequence[Any], arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arrays in the order of the model's inputs as the arguments of forward, in the structure `planned`."""
    values = iter(arrays.values())
    filled = map_structure(tuple(planned), lambda leaf: next(values) if isinstance(leaf, torch.Tensor) else leaf)
    return tuple(filled)


def _size(arguments: tuple[Any, ...]) -> int:
    """Samples of a batch: the first size of its first tensor."""
    first = next((tensor for tensor in tensors_of(arguments) if tensor.ndim), None)
    return 1 if first is None else int(first.shape[0])


def _batches(data: Any) -> Iterable[Any]:
    """`data` as batches: one tensor, array or dict is one batch."""
    if isinstance(data, (torch.Tensor, np.ndarray, Mapping)):
        return [data]
    if isinstance(data, bytes) or not isinstance(data, Iterable):
        got = repr(data) if isinstance(data, (bytes, int, float, type(None))) else f"a {type(data).__name__}"
        raise CalibrationError(
            "calibration_data is the path of a folder or file, or a list (or another iterable, such as a DataLoader) of batches: tensors, "
            f"arrays, tuples of inputs, or dicts of inputs by name; got {got}"
        )
    return data


def _arguments(prepared: ObservedGraphModule, batch: Any, count: int) -> tuple[Any, ...]:
    """The arguments of forward that a batch stands for; `CalibrationError` says what is wrong with the batch."""
    names = input_names(prepared)
    planned = prepared.preparation.inputs
    takes_dict = any(isinstance(each, Mapping) for each in (planned or ())[:1])
    if isinstance(batch, Mapping) and not takes_dict:
        known = {name: batch[name] for name in names if name in batch}
        if known and all(key in known or key in LABELS or not isinstance(value, torch.Tensor) for key, value in batch.items()):
            batch = known
    else:
        batch, _ = split_labels(batch, _wanted(planned, names))
    if isinstance(batch, Mapping) and not takes_dict and not set(batch) <= set(names):
        keys = ", ".join(map(str, batch))
        raise CalibrationError(f"calibration batch {count} has the inputs {keys}; the model takes {', '.join(names)}")
    try:
        arguments = bind(as_tuple(batch) or (), planned, names)
    except InputError as error:
        raise CalibrationError(f"calibration batch {count}: {error}") from error
    tensors = tensors_of(arguments)
    if not tensors:
        raise CalibrationError(f"calibration batch {count} holds no tensor or array, but {type(batch).__name__} {batch!r:.60}")
    for tensor in tensors:
        if tensor.numel() == 0:
            raise CalibrationError(f"calibration batch {count} is empty (shape {list(tensor.shape)})")
        if tensor.is_floating_point() and not _is_clean(tensor):
            raise CalibrationError(f"calibration batch {count} holds NaN or infinite values; clean the data")
    return arguments


def _is_clean(tensor: torch.Tensor) -> bool:
    """True for numbers, and for numbers with minus infinities between them: a mask that is added to scores."""
    finite = torch.isfinite(tensor)
    return bool(finite.all()) or bool((finite | torch.isneginf(tensor)).all() and finite.any())


def _wanted(planned: tuple[Any, ...] | None, names: Sequence[str]) -> int:
    """Arguments that the model was planned for, or that its forward has; optional ones that were left out do not count."""
    if planned is None:
        return len(names)
    wanted = list(planned)
    while wanted and wanted[-1] is None:
        wanted.pop()
    return len(wanted)


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
