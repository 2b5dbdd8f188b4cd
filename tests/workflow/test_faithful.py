"""What was traced is compared with the model itself before anybody calibrates or trains."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.errors import TraceError
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import prepare_qat_fx
from hqc.workflow.faithful import require_faithful

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.third(self.between(self.second(self.first(self.quant(x))))))

    def between(self, x: Tensor) -> Tensor:
        return x


class OtherWhenTraced(Net):
    """As libraries have them: a simpler form for exporters. That a proxy has a tracer is not hidden, as other signs of a trace are."""

    def between(self, x: Tensor) -> Tensor:
        return x if hasattr(x, "tracer") else x * 1.5


class Jumping(Net):
    """A millionth more or less turns the sign of values that are zero, up to rounding."""

    def between(self, x: Tensor) -> Tensor:
        rest = (x + 1.0e3) - 1.0e3 - x
        return torch.sign(rest) * (1.0 if hasattr(x, "tracer") else 1.01)


class Choosing(Net):
    """Which of two near scores is larger hangs on the last bits of weights: so an untrained detector picks its boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0 + 5e-7, 1.0]))

    def between(self, x: Tensor) -> Tensor:
        rounding = 6e-7 if hasattr(x, "tracer") else 0.0
        return x * (1.0 + (self.scores[0] - rounding > self.scores[1]).float())


class Drawing(Net):
    calls = 0

    def between(self, x: Tensor) -> Tensor:
        Drawing.calls += 1
        return x * Drawing.calls


class Failing(Net):
    def between(self, x: Tensor) -> Tensor:
        if not hasattr(x, "tracer"):
            raise KeyError("a table that is loaded later")
        return x


def compile_net(model: nn.Module) -> hqc.Compiled:
    return hqc.compile(model, X, march="bayes", calibration_data=[X])


def prepare_net(model: nn.Module) -> nn.Module:
    hqc.march.set_march("bayes")
    return prepare_qat_fx(model, {"": hqc.quantization.get_default_qat_qconfig()}, hybrid=True, example_inputs=X)


@pytest.mark.parametrize("way", [compile_net, prepare_net])
def test_code_that_does_something_else_when_traced_is_refused_with_the_modules_around_it(way):
    with pytest.raises(
        TraceError, match=r"output \w+ .* differs .* part between the modules second and third; .* leaf_modules"
    ):
        way(OtherWhenTraced())


def test_a_graph_that_fails_where_the_model_runs_is_one_sentence(monkeypatch):
    def fails(x, *args, **kwargs):
        raise KeyError("row")

    traced = prepare_net(Net())
    monkeypatch.setattr(type(traced.get_submodule("second")), "forward", fails)
    with pytest.raises(TraceError, match=r"fails where the model runs .KeyError: 'row'.*leaf_modules"):
        require_faithful(traced, (X,))


def test_the_cure_works():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = OtherWhenTraced()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    compiled = hqc.compile(Holder(), X, march="bayes", calibration_data=[X], leaf_modules=["inner"])
    assert compiled.simulate(X).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "why"), [(Jumping, "jump"), (Choosing, "jump"), (Drawing, "at random"), (Failing, "KeyError")]
)
def test_a_model_that_cannot_be_compared_compiles_with_a_remark(model, why):
    torch.manual_seed(0)
    remarks = [str(remark) for remark in compile_net(model()).deployment.remarks]
    assert any("could not be compared" in remark and why in remark for remark in remarks)


def test_a_right_trace_leaves_no_remark_no_state_and_no_random_numbers_used(caplog):
    model = Net()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with caplog.at_level(logging.WARNING, logger="hqc"):
        prepared = prepare_net(model)
    assert torch.equal(torch.rand(4), expected)
    assert prepared.training == model.training
    assert not any("compared" in str(remark) for remark in prepared.preparation.remarks)


class Padded(nn.Module):
    """In eval torch's encoder leaves padded tokens out and puts zeros there, which whoever mixes tokens reads."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(tokens, src_key_padding_mask=padding).sum(1)


def test_the_encoder_of_torch_with_padded_tokens_is_traced_right(caplog):
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    with caplog.at_level(logging.WARNING, "hqc"):
        hqc.compile(Padded().eval(), (tokens, padding), march="bayes", calibration_data=[(tokens, padding)])
    assert "compared" not in caplog.text


class Nested(Net):
    """A module that returns a tensor of unequal rows, in code that does something else when traced."""

    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if hasattr(x, "tracer") else torch.nested.nested_tensor([x[0], x[0, :, :4]])

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.Rows()

    def between(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        return x if hasattr(x, "tracer") else x * 1.5 + rows.to_padded_tensor(0.0).mean()


def test_results_without_a_shape_do_not_hinder_the_search_for_the_difference():
    with pytest.raises(TraceError, match="between the modules second and third"):
        hqc.compile(Nested().eval(), (X,), march="bayes", calibration_data=[X])
