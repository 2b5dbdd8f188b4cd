"""Layers without weights that train quantized: the float layer, then the fake quant of its result.

`prepare_*` puts fake quants where the plan wants them and leaves such layers as they are; these classes are for models that are put
together by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hqc.checked import numeric, shown
from hqc.errors import InputError, QConfigError
from hqc.nn.layers import Interpolate as FloatInterpolate
from hqc.nn.quantized.float_functional import FloatFunctional as PlainFunctional
from hqc.quantization.fake_quantize import make_fake_quant


def _own_fake_quant(module: nn.Module, qconfig: Any) -> None:
    from hqc.march import get_march, get_spec

    if qconfig is None:
        raise QConfigError(f"{type(module).__name__} needs a qconfig, for example get_default_qat_qconfig()")
    if not hasattr(qconfig, "activation"):
        raise QConfigError(f"{type(module).__name__} needs a QConfig, such as get_default_qat_qconfig(), got {shown(qconfig)}")
    fake_quant = None if qconfig.activation is None else make_fake_quant(qconfig.activation, get_spec(get_march()))
    module.register_module("activation_post_process", fake_quant)
    module.qconfig = qconfig


@numeric
class ObservedResult(nn.Module):
    """Mixin in front of a float layer class. `qconfig`: its activation entry makes `activation_post_process`."""

    float_class: ClassVar[type[nn.Module]]
    activation_post_process: nn.Module | None

    def __init__(self, *args: Any, qconfig: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _own_fake_quant(self, qconfig)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = super().forward(*args, **kwargs)
        return y if self.activation_post_process is None else self.activation_post_process(y)

    @classmethod
    def from_float(cls, mod: nn.Module, qconfig: Any = None) -> Any:
        """A layer with the attributes and parameters of `mod` (shared); `qconfig` defaults to `mod.qconfig`."""
        if not isinstance(mod, cls.float_class):
            raise InputError(f"{cls.__name__}.from_float needs a {cls.float_class.__name__}, got {type(mod).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        for key in ("_modules", "_parameters", "_buffers"):
            layer.__dict__[key].update(mod.__dict__[key])
        own = {name: value for name, value in vars(mod).items() if not name.startswith("_")}
        layer.__dict__.update(own)
        _own_fake_quant(layer, getattr(mod, "qconfig", None) if qconfig is None else qconfig)
        return layer


class AvgPool2d(ObservedResult, nn.AvgPool2d):
    """Average pool."""

    float_class = nn.AvgPool2d


class AdaptiveAvgPool2d(ObservedResult, nn.AdaptiveAvgPool2d):
    """Average pool to a given size."""

    float_class = nn.AdaptiveAvgPool2d


class BatchNorm2d(ObservedResult, nn.BatchNorm2d):
    """A batch normalization that has no layer before it."""

    float_class = nn.BatchNorm2d


class ReLU(ObservedResult, nn.ReLU):
    """ReLU."""

    float_class = nn.ReLU


class Interpolate(ObservedResult, FloatInterpolate):
    """Resize by `hqc.nn.Interpolate`."""

    float_class = FloatInterpolate


class Upsample(ObservedResult, nn.Upsample):
    """Resize."""

    float_class = nn.Upsample


class UpsamplingBilinear2d(ObservedResult, nn.UpsamplingBilinear2d):
    """Bilinear resize with aligned corners."""

    float_class = nn.UpsamplingBilinear2d


class UpsamplingNearest2d(ObservedResult, nn.UpsamplingNearest2d):
    """Nearest resize."""

    float_class = nn.UpsamplingNearest2d


@numeric
class FloatFunctional(PlainFunctional):
    """A FloatFunctional whose results go through the fake quant of its qconfig."""

    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig is not None:
            _own_fake_quant(self, qconfig)

    @classmethod
    def from_float(cls, mod: nn.Module, qconfig: Any = None) -> FloatFunctional:
        """As `mod`, with the fake quant of `qconfig` (default: `mod.qconfig`)."""
        return cls(getattr(mod, "qconfig", None) if qconfig is None else qconfig)


@numeric
class SegmentLUT(nn.Module):
    """A function of one input that the chip computes by a table; in training, the function itself and a fake quant behind it.

    `simulated_function`: tensor to tensor. The other arguments say how the reference divides its table; hqc's tables have an entry
    for every int8 input and are exact for int16.
    """

    def __init__(
        self,
        simulated_function: Callable[[Tensor], Tensor],
        is_centrosymmetric: bool = False,
        dividing_strategy: str = "evenly",
        inverse_func: Callable[[Tensor], Tensor] | None = None,
        input_range: Any = None,
        auto_divide_strategy: str = "evenly",
        qconfig: Any = None,
    ) -> None:
        super().__init__()
        del is_centrosymmetric, dividing_strategy, inverse_func, input_range, auto_divide_strategy
        self.simulated_function = simulated_function
        self.activation_post_process: nn.Module = nn.Identity()
        if qconfig is not None:
            _own_fake_quant(self, qconfig)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(torch.as_tensor(self.simulated_function(input)))
        return result
