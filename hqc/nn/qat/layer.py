"""What convolutions, transposed convolutions and linear layers have in common when they train quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import InputError, QConfigError
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quant_of, make_fake_quant, make_weight_fake_quant
from hqc.quantization.torch_arithmetic import fake_quantize_bias, half_step_bias

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec


@numeric
class QATLayer(nn.Module):
    """Mixin in front of a float layer class: fake-quantized weight, optional residual and activation, fake-quantized result.

    `forward(x)`, or `forward(x, residual)` in the classes with an add. `activation_post_process` None: high-precision output.
    `weight_fake_quant` works per output channel along `channel_axis`. `int8_bias`: the march's bias is int8 with one
    power-of-two scale, and is fake-quantized too.
    """

    _hqc_leaf = True
    float_class: ClassVar[type[nn.Module]]
    channel_axis: ClassVar[int] = 0
    activation: ClassVar[str] = "none"
    residual: ClassVar[bool] = False

    weight: Tensor
    bias: Tensor | None
    weight_fake_quant: FakeQuantizeBase
    activation_post_process: nn.Module | None
    int8_bias: bool
    half_step: bool = False  # the plan says that half a step of the result goes into the bias
    conv_position: int  # of `add`'s two operands, which one is this layer's input

    def __init__(self, *args: Any, qconfig: Any = None, march: MarchSpec | None = None, **kwargs: Any) -> None:
        """Arguments of the float class, the qconfig, and the march (default: the one of `set_march`)."""
        super().__init__(*args, **kwargs)
        self._own_parts()
        self._attach(qconfig, "own", march)

    @classmethod
    def from_float(cls, mod: nn.Module, qconfig: Any = None, march: MarchSpec | None = None, **parts: nn.Module) -> Any:
        """A layer with the parameters of float module `mod` (shared, not copied); `qconfig` defaults to `mod.qconfig`.

        `parts`: other float modules that the class needs (`bn`).
        """
        if not isinstance(mod, cls.float_class):
            raise InputError(f"{cls.__name__}.from_float needs a {cls.float_class.__name__}, got {type(mod).__name__}")
        qconfig = getattr(mod, "qconfig", None) if qconfig is None else qconfig
        weight: Any = mod.weight
        bias: Any = mod.bias
        return cls.build(mod, weight=weight, bias=bias, qconfig=qconfig, march=march, **parts)

    @classmethod
    def build(
        cls,
        mod: nn.Module,
        *,
        weight: Tensor,
        bias: Tensor | None,
        qconfig: Any,
        activation_post_process: nn.Module | str | None = "own",
        march: MarchSpec | None = None,
        **parts: nn.Module,
    ) -> Any:
        """A layer shaped as `mod` with other parameters. `activation_post_process` "own": made from the qconfig."""
        layer = cls.__new__(cls)
        arguments = {**cls._arguments(mod), "bias": bias is not None}
        # On the meta device nothing is allocated and no random numbers are drawn for weights that are replaced at once.
        super(QATLayer, layer).__init__(**arguments, device="meta")
        layer.weight = _parameter(weight)
        if bias is not None:
            layer.bias = _parameter(bias)
        layer._take_parts(**parts)
        layer._attach(qconfig, activation_post_process, march)
        layer.train(mod.training)
        return layer

    @staticmethod
    def _arguments(mod: Any) -> dict[str, Any]:
        """Constructor arguments of the float class, but bias, device and dtype."""
        raise NotImplementedError

    def _own_parts(self) -> None:
        """Make the other float modules that the class needs."""

    def _take_parts(self) -> None:
        """Take over the other float modules that the class needs."""

    def _attach(self, qconfig: Any, activation_post_process: nn.Module | str | None, march: MarchSpec | None) -> None:
        if qconfig is None:
            raise QConfigError(f"{type(self).__name__} needs a qconfig, for example get_default_qat_qconfig()")
        if march is None:
            from hqc.march import get_march, get_spec

            march = get_spec(get_march())
        self.int8_bias = march.int8_bias
        self.conv_position = 0
        self.weight_fake_quant = make_weight_fake_quant(qconfig.weight, march, self._folded_weight(), self.channel_axis)
        if activation_post_process == "own":
            activation_post_process = None if qconfig.activation is None else make_fake_quant(qconfig.activation, march)
        assert activation_post_process is None or isinstance(activation_post_process, nn.Module)
        if activation_post_process is not None:
            activation_post_process.to(self.weight.device)
        self.register_module("activation_post_process", activation_post_process)  # None is printed, as in the guide

    # --- computing -------------------------------------------------------------------------------------------------------

    def _folded_weight(self) -> Tensor:
        """The weight that is quantized, detached."""
        return self.weight.detach()

    def reset_weight_scale(self) -> None:
        """Take the weight scales from the weights as they are now."""
        self.weight_fake_quant.initialize(self._folded_weight())

    @property
    def tuned_weight(self) -> Tensor | None:
        """What tuning after training found for the weight; None: nothing."""
        return self._buffers.get("tuned_weight")

    @property
    def tuned_bias(self) -> Tensor | None:
        """What tuning after training found for the bias; None: nothing."""
        return self._buffers.get("tuned_bias")

    def tune(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """While it quantizes, the layer computes with these instead of its parameters; None: with its own."""
        for name, tensor in (("tuned_weight", weight), ("tuned_bias", bias)):
            if tensor is None:
                self._buffers.pop(name, None)
            else:
                self._buffers[name] = tensor.detach().clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("tuned_weight", "tuned_bias"):
            self._buffers.pop(name, None)
            if prefix + name in state_dict:
                self._buffers[name] = torch.empty_like(state_dict[prefix + name], device=self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def deployed_parameters(self) -> tuple[Tensor, Tensor | None]:
        """Float weight and bias that the chip's integers are made from, detached."""
        weight = self._folded_weight() if self.tuned_weight is None else self.tuned_weight
        bias = self.bias if self.tuned_bias is None else self.tuned_bias
        return weight, None if bias is None else bias.detach()

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The float layer's operation."""
        raise NotImplementedError

    def _quantized_bias(self, bias: Tensor | None) -> Tensor | None:
        """What the chip makes of the bias, while the weight is quantized too."""
        if not (self.int8_bias and self.weight_fake_quant.quantizes):
            return bias
        result = fake_quant_of(self.activation_post_process)
        if self.half_step and result is not None and result.quantizes:
            bias = self.weight.new_zeros(self._channels()) if bias is None else bias
            bias = half_step_bias(bias, result.calculate_qparams()[0])
        return None if bias is None else fake_quantize_bias(bias)

    def _channels(self) -> int:
        """Channels of the result: elements of a bias."""
        return int(getattr(self, "out_channels", 0) or self.out_features)  # type: ignore[arg-type]

    def _linear_part(self, x: Tensor) -> Tensor:
        tuned = self.weight_fake_quant.quantizes
        weight = self.tuned_weight if tuned and self.tuned_weight is not None else self.weight
        bias = self.tuned_bias if tuned and self.tuned_bias is not None else self.bias
        return self._compute(x, self.weight_fake_quant(weight), self._quantized_bias(bias))

    def _finish(self, y: Tensor) -> Tensor:
        if self.activation == "relu":
            y = torch.relu(y)
        elif self.activation == "relu6":
            y = F.relu6(y)
        if self.activation_post_process is None:
            return y
        result: Tensor = self.activation_post_process(y)
        return result

    def _of_size(self, x: Tensor, output_size: Any) -> Tensor:
        """The layer without residual and activation, with a result of the size that a transposed convolution is asked for."""
        raise InputError(f"{type(self).__name__} takes no output_size")

    def forward(self, input: Tensor, *residual: Tensor, output_size: Any = None) -> Tensor:
        if len(residual) != self.residual:
            takes = "an input and a residual" if self.residual else "one input"
            raise InputError(f"{type(self).__name__} takes {takes}, got {1 + len(residual)} tensors")
        y = self._linear_part(input) if output_size is None else self._of_size(input, output_size)
        return self._finish(y + residual[0] if residual else y)


@numeric
class ResidualCalls:
    """For classes with an add: stand in a FloatFunctional's place, whose operand `conv_position` was this layer's result."""

    _hqc_functional = True  # in graphs, `add` is a method call on this module
    conv_position: int

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        operands = (x, y)
        result: Tensor = self(operands[self.conv_position], operands[1 - self.conv_position])  # type: ignore[operator]
        return result

    add_relu = add

    def result_like(self, x: Tensor) -> Tensor:
        """An empty tensor of the shape, dtype and device of the result for the input `x`: for who asks before the residual exists."""
        shape = self._compute(x.to("meta"), self.weight.detach().to("meta"), None).shape  # type: ignore[attr-defined]
        return x.new_zeros(()).expand(shape)


def _parameter(value: Any) -> nn.Parameter:
    if isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(torch.as_tensor(value))
