"""Observers of one model in several processes: what each saw, put together as if one had seen all of it.

Minimum and maximum, and histograms over powers of two, merge exactly: the scales are those of one process on all data, whatever the
split. Moving averages depend on the order of their data; merged, they hold the union of the ranges.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hqc.errors import CalibrationError, HqcError
from hqc.quantization.fake_quantize import fake_quants
from hqc.quantization.observers import ObserverBase

T = TypeVar("T")
States = Mapping[str, Mapping[str, Tensor]]
"""What the observers of a model have seen: buffers by name, by the name of the fake quant."""


def observer_states(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What the observers of `model` have seen, on the CPU."""
    return {
        name: {key: value.detach().cpu().clone() for key, value in quant.activation_post_process.state_dict().items()}
        for name, quant in fake_quants(model)
    }


def merge_observer_states(model: nn.Module, states: Sequence[States]) -> None:
    """Make the observers of `model` what one is that saw all that those of `states` saw; what `model` itself saw is replaced.

    Observers that saw the same everywhere, such as those of weights, stay as they are.
    """
    for name, quant in fake_quants(model):
        seen = [each[name] for each in states]
        if all(_equal(seen[0], other) for other in seen[1:]) and _equal(seen[0], quant.activation_post_process.state_dict()):
            continue
        observers = [_with_state(quant.activation_post_process, state) for state in seen]
        known = [observer for observer in observers if observer.calibrated] or observers[:1]
        if any(not _equal(known[0].state_dict(), other.state_dict()) for other in known[1:]):
            for other in known[1:]:
                known[0].merge(other)
        quant.activation_post_process.load_state_dict(known[0].state_dict())
        quant.observed_elsewhere()


def _with_state(observer: ObserverBase, state: Mapping[str, Tensor]) -> ObserverBase:
    twin = copy.deepcopy(observer)
    twin.load_state_dict(dict(state))
    return twin


def _equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[key].shape == right[key].shape and torch.equal(left[key].cpu(), right[key].cpu()) for key in left
    )


def ranks() -> int:
    """Processes that calibrate together: those of torch.distributed, 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def each_rank_for_itself(model: nn.Module) -> Iterator[None]:
    """Inside, observers see the data of their own rank and wait for nobody: ranks may have different numbers of batches."""
    observers = [quant.activation_post_process for _, quant in fake_quants(model)]
    before = [observer.sync for observer in observers]
    for observer in observers:
        observer.sync = False
    try:
        yield
    finally:
        for observer, sync in zip(observers, before, strict=True):
            observer.sync = sync


def merge_over_ranks(model: nn.Module, count: int, error: HqcError | None) -> int:
    """Merge the observers of all ranks on every rank; returns the number of batches of all.

    `count`: batches of this rank; `error`: what went wrong here, which every rank then raises rather than wait for ever.
    """
    found: list[tuple[int, str, States]] = [(0, "", {})] * ranks()
    dist.all_gather_object(found, (count, "" if error is None else str(error), observer_states(model)))
    if error is not None:
        raise error
    for rank, (_, problem, _) in enumerate(found):
        if problem:
            raise CalibrationError(f"on rank {rank}: {problem}")
    with_data = [states for batches, _, states in found if batches]
    if with_data:
        merge_observer_states(model, with_data)
    return sum(batches for batches, _, _ in found)


def of_first_rank(value: T) -> T:
    """`value` of the first rank, on every rank: what must be the same everywhere and has no way to be merged."""
    if ranks() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]
