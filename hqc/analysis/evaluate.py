"""A metric over a data set: of the float, the fake-quantized and the integer model, over processes and machines, resumable.

Every batch is evaluated by itself with one numeric thread, and what batches give is put together in the order of the data: the result
is the same number for one process, for workers, and for ranks of torch.distributed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from hqc.checked import checked, whole_number
from hqc.errors import HqcError, InputError
from hqc.files import read_text, write_file
from hqc.structures import children, map_structure
from hqc.workflow.loaded import LoadedModel
from hqc.workflow.workers import Sent, in_workers, one_thread

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled

Array = npt.NDArray[Any]
Metric = Callable[[Any, Any], Any]
"""`metric(outputs, labels)`: one number per sample (an array), or several by name; higher or lower is the user's affair.

With a method `combine(parts)`, which makes a number or numbers by name of what the batches gave (anything that JSON can hold, in the
order of the data), a metric of the whole set such as a mean average precision.
"""
Progress = Callable[[int, float], None]
"""`progress(samples done, samples per second)`."""
VARIANTS = ("float", "fake-quant", "integer")


def top1(outputs: Any, labels: Any) -> Array:
    """1 where the largest score of a sample (first output, `[N, classes]`) is that of its label."""
    scores = np.asarray(first_array(outputs))
    if scores.ndim < 2:
        raise InputError(f"top1 needs scores [samples, classes], the first output has shape {list(scores.shape)}")
    found: Array = (scores.reshape(len(scores), -1).argmax(1) == np.asarray(labels).reshape(-1)).astype(np.float64)
    return found


def top5(outputs: Any, labels: Any) -> Array:
    """1 where the label of a sample is among its five largest scores; equal scores count for the class that comes first."""
    scores = np.asarray(first_array(outputs))
    best = np.argsort(-scores.reshape(len(scores), -1), axis=1, kind="stable")[:, :5]
    found: Array = (best == np.asarray(labels).reshape(-1, 1)).any(1).astype(np.float64)
    return found


METRICS: dict[str, Metric] = {"top1": top1, "top5": top5}


def first_array(outputs: Any) -> Any:
    """The first array of what a model returns."""
    while isinstance(outputs, (tuple, list, Mapping)):
        outputs = next(iter(outputs.values() if isinstance(outputs, Mapping) else outputs))
    return outputs


@dataclass(frozen=True)
class Evaluation:
    """`values`: by variant, then by the metric's name. `samples`: how many were evaluated; `seconds`: of this run."""

    values: Mapping[str, Mapping[str, float]]
    samples: int
    seconds: float = field(compare=False, default=0.0)
    resumed: int = field(compare=False, default=0)

    def table(self) -> Table:
        """One row per name of the metric, one column per variant."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("metric")
        for variant in self.values:
            table.add_column(variant, justify="right")
        for name in next(iter(self.values.values())):
            table.add_row(name, *(f"{found[name]:.6g}" for found in self.values.values()))
        return table

    def __str__(self) -> str:
        return "\n".join(
            f"{variant}: {', '.join(f'{name} {value:.6g}' for name, value in found.items())}"
            for variant, found in self.values.items()
        )


@checked
def evaluate(
    model: Compiled | LoadedModel,
    batches: Iterable[tuple[Any, Any]],
    metric: Metric | str = "top1",
    *,
    variants: Sequence[str] | None = None,
    workers: int = 1,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The metric of a compiled model (or a loaded one, which has the integer variant alone) over a data set.

    `batches`: pairs of inputs (a tensor or array, a tuple, or a dict by name) and labels. `metric`: see `Metric`; `top1` and `top5` are
    built in. `variants`: of `float`, `fake-quant`, `integer`. `workers`: processes that share the batches. Under torch.distributed every
    rank goes through all batches, takes its share of them, and all ranks return the whole result. `resume`: a file that holds what is
    done; an interrupted evaluation goes on from there, if model, metric and variants are the same (`InputError` if not).

    `InputError` for no batches, and for what the metric returns where it cannot be put together.
    """
    chosen = _variants(model, variants)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
    if isinstance(metric, str):
        if metric not in METRICS:
            raise InputError(f"there is no metric {metric!r}; built in are {', '.join(METRICS)}, others are functions")
        metric = METRICS[metric]
    rank, world = _rank()
    state = _State(resume, rank, world, _fingerprint(model, name, chosen))
    before = len(state.parts)
    start = time.perf_counter()
    work = (item for index, item in _shares(batches, rank, world) if str(index) not in state.parts)
    shared = (model, metric, chosen)
    results = (
        in_workers(_evaluated, shared, work, workers, _without_torch(*shared))
        if workers > 1
        else (_evaluated(shared, item) for item in work)
    )
    done, failure = 0, None
    try:
        for index, size, found in results:
            state.add(index, size, found)
            done += size
            if progress is not None:
                progress(done, done / max(time.perf_counter() - start, 1e-9))
    except HqcError as error:
        if world == 1:
            raise
        failure = error
    finally:
        state.save()
    parts = _gathered(state.parts, world, failure)
    if not parts:
        raise InputError("there is no data to evaluate: no batch came")
    ordered = [parts[key] for key in sorted(parts, key=int)]
    values = {variant: _combined(metric, name, [part["found"][variant] for part in ordered], ordered) for variant in chosen}
    return Evaluation(values, sum(part["size"] for part in ordered), time.perf_counter() - start, before)


def _variants(model: Compiled | LoadedModel, given: Sequence[str] | None) -> tuple[str, ...]:
    possible = ("integer",) if isinstance(model, LoadedModel) else VARIANTS
    chosen = tuple(given) if given is not None else possible
    wrong = [variant for variant in chosen if variant not in possible]
    if wrong or not chosen:
        why = "; a loaded model has no torch half" if wrong and wrong[0] in VARIANTS else ""
        raise InputError(f"variants are {', '.join(possible)}, got {', '.join(map(str, wrong)) or 'none'}{why}")
    return chosen


# --- one batch ----------------------------------------------------------------------------------------------------------------


def _shares(batches: Iterable[tuple[Any, Any]], rank: int, world: int) -> Iterator[tuple[int, tuple[int, Any, Any]]]:
    """The batches of this rank with their numbers."""
    for index, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError(f"batch {index + 1} is no pair of inputs and labels")
        if index % world == rank:
            yield index, (index, batch[0], batch[1])


def _evaluated(shared: tuple[Any, Metric, Sequence[str]], item: tuple[int, Any, Any]) -> tuple[int, int, dict[str, Any]]:
    """What the metric gives for one batch, by variant, as JSON has it."""
    model, metric, variants = shared
    index, inputs, labels = item
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    found, size = {}, 0
    with nullcontext() if isinstance(model, LoadedModel) else one_thread():
        for variant in variants:
            outputs = _outputs(model, variant, arguments)
            size = len(first_array(outputs))
            found[variant] = _plain(metric, metric(outputs, labels), size, index)
    return index, size, found


def _without_torch(model: Compiled | LoadedModel, metric: Metric, variants: Sequence[str]) -> Callable[[], Sent] | None:
    """The integer model and arrays, where these are all that other processes need: they start in half the time without torch.

    None where torch has work to do: other variants, operations that torch runs, its engine, outputs in classes of the user's.
    """
    from hqc.backends.bpu.engines import get_engine

    if isinstance(model, LoadedModel) or tuple(variants) != ("integer",) or get_engine("auto").name == "onednn":
        return None
    if model.deployment.opaque or not _is_plain(model.runner.restored([None] * len(model.graph.outputs))):
        return None
    return lambda: ((model.without_torch(), metric, variants), lambda item: (item[0], _arrays(model, item[1]), item[2]))


def _is_plain(structure: Any) -> bool:
    """Whether a structure is made of tuples, lists and dicts alone, which are the same in every process."""
    parts = children(structure)
    return parts is None or (type(structure) in (tuple, list, dict) and all(_is_plain(item) for _, item in parts))


def _arrays(model: Any, inputs: Any) -> tuple[Any, ...]:
    """The arguments of one call as arrays."""
    import torch

    arguments = model.runner.arguments(inputs if isinstance(inputs, tuple) else (inputs,))
    return tuple(map_structure(arguments, lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf))


def _outputs(model: Any, variant: str, arguments: tuple[Any, ...]) -> Any:
    if variant == "integer":
        return model.simulate(*arguments)
    if variant == "fake-quant":
        return model.fake_quant(*arguments)
    return float_outputs(model, arguments)


def float_outputs(compiled: Compiled, arguments: tuple[Any, ...]) -> Any:
    """What the float model returns in eval mode, as NumPy arrays."""
    import torch

    from hqc.frontend.fx.copying import in_eval_mode
    from hqc.workflow.runner import as_arrays

    model = compiled.prepared.preparation.float_model
    training = model.training
    try:
        with torch.no_grad():
            return as_arrays(in_eval_mode(model)(*compiled.runner.arguments(arguments)))
    finally:
        model.train(training)


def _plain(metric: Metric, value: Any, size: int, index: int) -> Any:
    if hasattr(metric, "combine"):
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise InputError(f"what the metric gives for a batch must be numbers, texts, lists and dicts: {error}") from None
    named = value if isinstance(value, Mapping) else {"": value}
    sums = {}
    for name, item in named.items():
        array = np.asarray(item.detach().cpu().numpy() if hasattr(item, "detach") else item, np.float64).reshape(-1)
        if array.size != size:
            raise InputError(
                f"the metric gives {array.size} numbers for the {size} samples of batch {index + 1}; give one for each sample, or a metric "
                "with a method combine"
            )
        sums[str(name)] = math.fsum(array)
    return sums


def _combined(metric: Metric, name: str, parts: list[Any], ordered: list[dict[str, Any]]) -> dict[str, float]:
    if hasattr(metric, "combine"):
        value = metric.combine(parts)
        return {str(key): float(item) for key, item in value.items()} if isinstance(value, Mapping) else {name: float(value)}
    samples = sum(part["size"] for part in ordered)
    return {key or name: math.fsum(part[key] for part in parts) / samples for key in parts[0]}


# --- many processes, and again later --------------------------------------------------------------------------------------------


def _rank() -> tuple[int, int]:
    import sys

    dist = getattr(sys.modules.get("torch"), "distributed", None)
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _gathered(parts: dict[str, Any], world: int, failure: HqcError | None) -> dict[str, Any]:
    """The parts of all ranks on every rank; where one failed, all raise rather than wait for ever."""
    if world == 1:
        return parts
    import torch.distributed as dist

    found: list[tuple[dict[str, Any], str]] = [({}, "")] * world
    dist.all_gather_object(found, (parts, str(failure or "")))
    if failure is not None:
        raise failure
    for rank, (_, problem) in enumerate(found):
        if problem:
            raise InputError(f"on rank {rank}: {problem}")
    return {key: value for each, _ in found for key, value in each.items()}


def _fingerprint(model: Compiled | LoadedModel, metric: str, variants: Sequence[str]) -> str:
    """Of what must not change between an evaluation and its continuation."""
    text = json.dumps([str(model.integer_graph), metric, list(variants)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _State:
    """What is done, in memory and (every few seconds, whole) in a file."""

    def __init__(self, path: str | os.PathLike[str] | None, rank: int, world: int, fingerprint: str) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        self._fingerprint = fingerprint
        self._path = None if path is None else Path(f"{os.fspath(path)}.rank{rank}of{world}" if world > 1 else os.fspath(path))
        self._saved = time.monotonic()
        if self._path is not None and self._path.is_file():
            self.parts = self._read(self._path)

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        try:
            held = json.loads(read_text(path, what="an evaluation"))
            parts: dict[str, dict[str, Any]] = held["batches"]
            if held["of"] != self._fingerprint:
                raise InputError(
                    f"{path} is an evaluation of another model, metric or set of variants; give another file, or delete it"
                )
            if not all(
                whole_number(key) is not None and isinstance(part["size"], int) and part["found"] for key, part in parts.items()
            ):
                raise ValueError("a batch without its parts")
            return parts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no evaluation to go on with: {error}") from None

    def add(self, index: int, size: int, found: dict[str, Any]) -> None:
        self.parts[str(index)] = {"size": size, "found": found}
        if time.monotonic() - self._saved > 5:
            self.save()

    def save(self) -> None:
        if self._path is not None:
            write_file(self._path, json.dumps({"of": self._fingerprint, "batches": self.parts}, indent=1).encode())
        self._saved = time.monotonic()
