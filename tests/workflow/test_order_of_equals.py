"""Of equal scores, of which a grid has many, a model in training chooses those that simulator and ONNX file choose: the first ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.workflow.ties import FirstOfEquals


def test_selected_rows_are_contiguous_and_the_first_of_equals_comes_first() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 4.0]])
    with FirstOfEquals():
        values, indices = torch.topk(x, 2)
        assert values.view(-1).tolist() == [3.0, 3.0, 5.0, 5.0]  # `view` takes no strided part of a sorted tensor
        assert indices.view(-1).tolist() == [1, 2, 0, 1]
        smallest, at = torch.kthvalue(x, 2, keepdim=True)
        assert smallest.view(-1).tolist() == [2.0, 5.0]
        assert at.view(-1).tolist() == [3, 0]


class Scores(nn.Module):
    """Scores on a grid of few steps: a convolution that changes nothing, so that no rounding decides."""

    def __init__(self, decode: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.quant, self.dequant, self.decode = QuantStub(), DeQuantStub(), decode
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.conv.weight.data = torch.eye(4)[:, :, None, None]

    def forward(self, x: Tensor) -> Any:
        return self.decode(self.dequant(self.conv(self.quant(x))))


def centers(y: Tensor) -> tuple[Tensor, ...]:
    """Peaks of every class, then of all, and where they are: the decoder of CenterNet."""
    batch, classes, _, width = y.shape
    heat = y * (functional.max_pool2d(y, 3, 1, 1) == y).float()
    scores, at = heat.view(batch, classes, -1).topk(9)
    best, chosen = scores.view(batch, -1).topk(9)
    place = at.view(batch, -1).gather(1, chosen)
    return best, chosen // 9, place // width, place % width


DECODERS: dict[str, Callable[[Tensor], Any]] = {
    "centers": centers,
    "topk": lambda y: y.flatten(1).topk(40, largest=False).indices,
    "sort": lambda y: torch.sort(y.flatten(1), descending=True)[1],
    "argsort": lambda y: y.flatten(2).argsort(dim=-1),
    "kthvalue": lambda y: torch.kthvalue(y.flatten(1), 60).indices,
    "median": lambda y: y.flatten(2).median(-1).indices,
    "nanmedian": lambda y: y.flatten(2).nanmedian(-1).indices,
    "mode": lambda y: y.flatten(2).mode().indices,
    "largest": lambda y: (y.argmax(1), y.flatten(2).max(2).indices, y.min(1).indices),
}


def scores() -> Tensor:
    return torch.randint(-6, 7, (1, 4, 12, 12), generator=torch.Generator().manual_seed(0)) / 6.0


def assert_same(one: Any, other: Any) -> None:
    for first, second in zip(*(((each,) if isinstance(each, Tensor) else each) for each in (one, other)), strict=True):
        assert torch.allclose(torch.as_tensor(first).double(), torch.as_tensor(second).double(), atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_a_model_in_training_chooses_what_the_converted_one_chooses(name: str) -> None:
    set_march("bayes")
    x, config = scores(), {"": get_default_qat_qconfig()}
    prepared = prepare_qat_fx(Scores(DECODERS[name]), config, hybrid=True, example_inputs=(x,)).train()
    prepared(x)
    with torch.no_grad():
        assert_same(prepared.eval()(x), convert_fx(prepared)(x))


def test_simulator_and_file_choose_what_the_fake_quantized_model_chooses(tmp_path: Path) -> None:
    x = scores()

    def decode(y: Tensor) -> list[Tensor]:
        results = [decoder(y) for decoder in DECODERS.values()]
        return [each for result in results for each in ((result,) if isinstance(result, Tensor) else result)]

    compiled = hqc.compile(Scores(decode), (x,), march="bayes", calibration_data=[(x,)])
    compiled.export(tmp_path / "net.onnx", flavour="runnable")
    chosen = compiled.fake_quant(x)
    assert_same(chosen, compiled.simulate(x))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert_same(chosen, session.run(None, {session.get_inputs()[0].name: x.numpy()}))


class FewPeaks(nn.Module):
    """Selects more than there are, so that torch takes any of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(1)
        return y.gather(1, (y > 1e4).float().topk(30).indices)


def test_a_model_that_took_others_of_equal_scores_is_not_misread() -> None:
    torch.manual_seed(0)
    compiled = hqc.compile(FewPeaks(), (scores(),), march="bayes", calibration_data=[(scores(),)])
    assert not any("compared" in str(remark) for remark in compiled.deployment.remarks)


def test_gradients_reach_what_was_chosen() -> None:
    set_march("bayes")
    x = scores()
    prepared = prepare_qat_fx(Scores(lambda y: y.topk(3, 1)), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    prepared.train()(x).values.sum().backward()
    assert prepared.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sort", [torch.sort, torch.argsort])
@pytest.mark.parametrize("stable", [False, True])
def test_whole_numbers_are_sorted_in_a_definite_order_however_the_call_is_spelled(sort: Any, stable: bool) -> None:
    numbers = torch.randint(0, 4, (2, 300), generator=torch.Generator().manual_seed(0))
    with FirstOfEquals():
        found = sort(numbers, dim=1, stable=stable)
    order = found if sort is torch.argsort else found.indices
    assert torch.equal(order, torch.sort(numbers, dim=1, stable=True).indices)
