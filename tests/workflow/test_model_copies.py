"""Models that hold what Python cannot copy go the whole way, and the user's model is left alone."""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.frontend.fx.copying import deep_copy
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, fuse_fx, get_default_qat_qconfig, prepare_qat_fx


class _Session:
    """A plain object around a lock, with a list beside it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.names = ["a", "b"]


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"4": nn.Conv2d(3, 4, 3, padding=1), "8": nn.Conv2d(4, 4, 3, padding=1)})
        self.scales = dict.fromkeys(self.stages, 2).keys()
        self.math = math
        self.session = _Session()
        self.rest = {"numbers": (number for number in range(3)), "stages": [self.stages["4"]]}
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        for scale in self.scales:
            x = self.stages[scale](x).relu() * self.math.sqrt(4.0)
        return self.dequant(x)


def test_what_cannot_be_copied_is_shared_and_the_rest_is_not() -> None:
    model = Pyramid()
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    twin = deep_copy(model)
    assert twin.scales is model.scales and twin.math is math and twin.rest["numbers"] is model.rest["numbers"]
    assert twin.session is not model.session and twin.session.lock is model.session.lock
    assert twin.session.names == ["a", "b"] and twin.session.names is not model.session.names
    assert twin.stages["4"].weight is not model.stages["4"].weight
    assert twin.rest["stages"][0] is twin.stages["4"]


def test_such_models_go_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Pyramid().eval(), torch.randn(1, 3, 16, 16)
    weight = model.stages["4"].weight.detach().clone()
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    assert compiled.export(tmp_path / "net.onnx", flavour="runnable").executed
    set_march("bayes")
    fuse_fx(model)
    trained = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)).train()
    trained(x).sum().backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    with torch.no_grad():
        trained.eval()(x)
    assert convert_fx(trained)(x).shape == (1, 4, 16, 16)
    assert torch.equal(model.stages["4"].weight, weight)


def test_a_memo_holds_no_number_of_an_object_that_is_gone():
    """Else the next object at its address is taken for copied: deep networks lost their parts now and then."""
    inner: list[object] = []
    thing, memo = {"inner": inner}, {}
    deep_copy(thing, memo)
    assert set(memo) == {id(memo), id(thing), id(inner)}


class KnowsItselfByClosures(nn.Module):
    """Hooks and activations that are functions inside of the constructor, as much published code has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.features: dict[str, torch.Tensor] = {}
        features = self.features

        def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            features["conv"] = output

        self.conv.register_forward_hook(keep)
        self.gated = [functools.partial(lambda scale, x: self.conv(x) * scale, 0.5)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.gated[0](x)
        return self.head(y + self.features["conv"])


def test_functions_of_a_copy_know_the_copy() -> None:
    model = KnowsItselfByClosures().eval()
    copied = deep_copy(model)
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    with torch.no_grad():
        model.conv.weight.zero_()
    model.features.clear()
    torch.testing.assert_close(copied(x), expected)
    assert not model.features and set(copied.features) == {"conv"}
    compiled = hqc.compile(copied, x, march="bayes", calibration_data=[x])
    assert np.abs(compiled.simulate(x) - expected.detach().numpy()).max() < 0.1


class StaysFrozen(nn.Module):
    """Its `train` keeps the stem's norm in eval and returns nothing, as that of every model of MMEngine does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.drop = nn.Dropout(0.5)
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.head(self.drop(self.norm(self.conv(self.quant(x))).relu())))


def test_train_of_the_users_may_return_nothing(tmp_path: Path) -> None:
    model, x = StaysFrozen(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model.eval()
    expected = model(x).detach().numpy()
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    assert np.abs(np.asarray(compiled.simulate(x)) - expected).max() < 0.1
    compiled.export(tmp_path / "net.onnx", flavour="runnable")
    assert not model.training
    set_march("bayes")
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, example_inputs=(x,))
    prepared.train()
    prepared(x).sum().backward()
    prepared.eval()(x)
    assert np.abs(convert_fx(prepared)(x).detach().numpy() - expected).max() < 0.1
    assert np.abs(model(x).detach().numpy() - expected).max() == 0


class FrozenConfiguration(OrderedDict):  # type: ignore[type-arg]
    """As diffusers and others keep the arguments of a model: nothing in it can be changed."""

    def _refuse(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a configuration is frozen")

    clear = update = pop = setdefault = _refuse  # type: ignore[assignment]

    def __setitem__(self, key: str, value: object) -> None:
        if getattr(self, "frozen", False):
            self._refuse()
        super().__setitem__(key, value)


class FrozenList(list):  # type: ignore[type-arg]
    def clear(self) -> None:
        raise TypeError("frozen")

    extend = clear  # type: ignore[assignment]


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = FrozenConfiguration(channels=4, names=FrozenList(["a", "b"]))
        self.config.frozen = True  # type: ignore[attr-defined]
        self.cache: dict[tuple[int, ...], Tensor] = {}
        self.conv, self.head = nn.Conv2d(3, self.config["channels"], 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.cache[tuple(x.shape)] = x
        return self.head(self.conv(x).relu()) * len(self.config["names"])


def test_configurations_that_refuse_changes_are_left_alone() -> None:
    model, x = Configured().eval(), torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = list(model.config.items())
    expected = model(x).detach().numpy()
    model.cache.clear()
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    assert np.abs(np.asarray(compiled.simulate(x)) - expected).max() < 0.1
    assert list(model.config.items()) == kept and not model.cache  # what the trace left there is gone
