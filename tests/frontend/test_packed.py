"""Packed sequences of full length are the tensors that they were packed of; others are refused with the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import hqc
from hqc.errors import TraceError
from hqc.frontend.fx import trace
from hqc.structures import leaves

ROWS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
STEPS = ROWS.transpose(0, 1).contiguous()


class Packed(nn.Module):
    """A recurrent layer over a packed sequence, whose layout may be another than the layer's."""

    def __init__(self, layer: type[nn.RNNBase] = nn.LSTM, layer_first: bool = True, first: bool = True) -> None:
        super().__init__()
        self.layer, self.first = layer(8, 6, batch_first=layer_first, bidirectional=True), first
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> Any:
        count, steps = (x.size(0), x.size(1)) if self.first else (x.size(1), x.size(0))
        y, state = self.layer(pack_padded_sequence(x, [steps] * count, batch_first=self.first))
        y, _ = pad_packed_sequence(y, batch_first=self.first, total_length=7)
        return self.fc(y), state


class Given(nn.Module):
    """Lengths as an argument, and code that asks what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 6, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: Any = None) -> torch.Tensor:
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        self.layer.flatten_parameters()
        y, _ = self.layer(x)
        if isinstance(y, PackedSequence):
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return y


class Fixed(Given):
    def __init__(self, lengths: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, self.lengths(x))


class Steps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pack_padded_sequence(x, [5, 5], batch_first=True).data * 2


CASES: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "lstm": (Packed(), ROWS),
    "gru": (Packed(nn.GRU), ROWS),
    "layer of the other layout": (Packed(layer_first=False), ROWS),
    "steps first": (Packed(nn.RNN, layer_first=False, first=False), STEPS),
    "steps first, layer not": (Packed(first=False), STEPS),
    "lengths of a tensor's size": (Fixed(lambda x: torch.full((x.shape[0],), x.shape[1], dtype=torch.long).cpu()), ROWS),
    "mask of ones": (Fixed(lambda x: torch.ones(x.shape[:2]).sum(1).long()), ROWS),
    "steps": (Steps(), ROWS),
}


@pytest.mark.parametrize("name", CASES)
def test_full_lengths_change_nothing(name: str) -> None:
    model, x = CASES[name]
    traced = trace(model.eval(), x)
    with torch.no_grad():
        for one, other in zip(leaves(model(x)), leaves(traced(x)), strict=True):
            assert torch.equal(one, other)


def test_lengths_given_as_constants_go_the_whole_way(tmp_path: Any) -> None:
    model = Given().eval()
    compiled = hqc.compile(model, (ROWS,), march="bayes", calibration_data=[(ROWS,)], concrete_args={"lengths": [5, 5]})
    with torch.no_grad():
        assert torch.allclose(torch.as_tensor(compiled.simulate(ROWS)), model(ROWS), atol=1e-5)
    compiled.export(tmp_path / "model.onnx")


def test_other_lengths_are_refused_with_the_cure() -> None:
    cure = r"are known only when the model runs, .*: give constant ones by concrete_args \(\[5\] \* 2\)"
    with pytest.raises(TraceError, match=rf"^test_packed\.py:\d+: the lengths of pack_padded_sequence {cure}"):
        trace(Given(), (ROWS, torch.tensor([5, 5])))
    with pytest.raises(TraceError, match=r"given the lengths \[5, 3\] for 2 sequences of 5 steps, .*: cut the input to it"):
        trace(Fixed(lambda x: [5, 3]), ROWS)
    with pytest.raises(TraceError, match="pack_padded_sequence needs the sizes of its input; give example_inputs"):
        trace(Steps())
