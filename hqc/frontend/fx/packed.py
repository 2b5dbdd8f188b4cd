"""Packed sequences of full length, which are the padded tensors that they were made of.

`pack_padded_sequence` tells a recurrent layer where each sequence of a batch ends. A deployed graph runs sequences of one length; where
all of them have it, as constants say, packing and unpacking change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import rnn

from hqc.errors import TraceError
from hqc.frontend.fx.known import UNKNOWN
from hqc.frontend.fx.patches import Patches


class FullSequence(rnn.PackedSequence):
    """A traced tensor as a packed sequence. `padded`: the tensor; `batch_first`: its layout; `steps`: the length of
    each of its `sequences`."""

    padded: Any
    batch_first: bool
    steps: int
    sequences: int

    def __new__(cls, padded: Any, batch_first: bool, steps: int, sequences: int) -> FullSequence:
        made = tuple.__new__(cls, (padded, torch.full((steps,), sequences), None, None))
        made.padded, made.batch_first, made.steps, made.sequences = padded, batch_first, steps, sequences
        return made

    @property
    def data(self) -> Any:
        """All steps of all sequences, step by step."""
        return self.laid_out(False).flatten(0, 1)

    def laid_out(self, batch_first: bool) -> Any:
        """The padded tensor in this layout."""
        return self.padded if self.batch_first == batch_first else self.padded.transpose(0, 1)

    def holding(self, padded: Any, batch_first: bool) -> FullSequence:
        """A sequence of as many steps with other contents."""
        return FullSequence(padded, batch_first, self.steps, self.sequences)


def open_packed_sequences(patches: Patches, where: Callable[[], str]) -> None:
    """While tracing, packing and unpacking take traced tensors. `where`: the user's line."""
    pack, pad = rnn.pack_padded_sequence, rnn.pad_packed_sequence

    def packed(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
        if not isinstance(input, fx.Proxy):
            return pack(input, lengths, batch_first, enforce_sorted)
        known = input.tracer.known  # type: ignore[attr-defined]
        value = known.of(input.node)
        line = f"{where()}: " if where() else ""
        if not isinstance(value, torch.Tensor):
            raise TraceError(f"{line}pack_padded_sequence needs the sizes of its input; give example_inputs")
        count, steps = value.shape[:2] if batch_first else (value.shape[1], value.shape[0])
        found = _lengths(lengths, known)
        if found is None:
            raise TraceError(
                f"{line}the lengths of pack_padded_sequence are known only when the model runs, and a deployed graph runs sequences of "
                f"one length: give constant ones by concrete_args ([{steps}] * {count}), or call the layer on the padded tensor"
            )
        if found != [steps] * count:
            raise TraceError(
                f"{line}pack_padded_sequence is given the lengths {found[:4]} for {count} sequences of {steps} steps, and a deployed graph "
                "runs sequences of one length: cut the input to it, or call the layer on the padded tensor"
            )
        return FullSequence(input, batch_first, steps, count)

    def padded(sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None) -> Any:
        if not isinstance(sequence, FullSequence):
            return pad(sequence, batch_first, padding_value, total_length)
        result = sequence.laid_out(batch_first)
        if total_length is not None and total_length != sequence.steps:
            more = (0, 0) * (sequence_rank(sequence) - (2 if batch_first else 1)) + (0, total_length - sequence.steps)
            result = F.pad(result, more, value=padding_value)
        return result, torch.full((sequence.sequences,), sequence.steps)

    patches.function(rnn, "pack_padded_sequence", packed)
    patches.function(rnn, "pad_packed_sequence", padded)


def sequence_rank(sequence: FullSequence) -> int:
    """How many dimensions the padded tensor has."""
    value = sequence.padded.tracer.known.of(sequence.padded.node)
    return int(value.ndim)


def _lengths(lengths: Any, known: Any) -> list[int] | None:
    """The numbers, where they do not depend on data."""
    if isinstance(lengths, fx.Proxy):
        value = known.of_constants(lengths.node)
        return None if value is UNKNOWN else _lengths(value, known)
    if isinstance(lengths, torch.Tensor):
        return [int(length) for length in lengths.tolist()]
    found = [known.of(item.node) if isinstance(item, fx.Proxy) else item for item in lengths]
    return [int(item) for item in found] if all(isinstance(item, int) for item in found) else None


def of_packed(layer: nn.RNNBase, call: Callable[..., Any], sequence: FullSequence, args: tuple[Any, ...]) -> Any:
    """What the recurrent layer gives for a packed sequence: `call` runs it on a padded tensor."""
    result, state = call(sequence.laid_out(layer.batch_first), *args)
    return sequence.holding(result, layer.batch_first), state
