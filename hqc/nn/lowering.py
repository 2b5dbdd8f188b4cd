"""Lowerings of hqc's modules, registered with the front end when `hqc.nn` is imported.

A QAT module becomes the float op it stands for, with its scales on weight and result; a fake quant becomes `quantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings.boundary import dequant_stub, quant_stub
from hqc.frontend.fx.lowerings.conv import emit_conv, emit_conv_transpose, output_padding_for
from hqc.frontend.fx.registry import find_function, lower_functional, lower_module
from hqc.ir import QuantParams, Value
from hqc.nn.qat.conv import Conv1d, Conv2d
from hqc.nn.qat.conv_transpose import ConvTranspose2d
from hqc.nn.qat.layer import QATLayer, ResidualCalls
from hqc.nn.qat.linear import Linear
from hqc.nn.qat.steep import SteepOperand
from hqc.nn.qat.stubs import QuantStub as QATQuantStub
from hqc.nn.qat.weights import BiasFakeQuantize, FoldedWeightFakeQuantize
from hqc.nn.quantized.float_functional import FloatFunctional
from hqc.nn.stubs import DeQuantStub, QuantStub
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.quantization.fake_quantize import BoundaryFakeQuantize, FakeQuantize, fake_quant_of
from hqc.quantization.lsq import LearnedScaleFakeQuantize
from hqc.quantization.off_grid import FixedPointSample, GainPool, OffGridFakeQuantize


def result_quant(module: nn.Module | None) -> QuantParams | None:
    """QuantParams of a module's `activation_post_process`; None for a high-precision output and for an Identity."""
    fake_quant = fake_quant_of(module)
    return None if fake_quant is None else fake_quant.ir_quant()


# --- layers --------------------------------------------------------------------------------------------------------------


@lower_module(QATLayer)
def qat_layer(ctx: LoweringContext, module: QATLayer, input: Value, *residual: Value, output_size: Any = None) -> Value:
    """Weights are named and kept as the user's (or as folded); their integers come from the scale when the IR is lowered."""
    tensor, bias = module.deployed_parameters()
    if tensor.data_ptr() == module.weight.data_ptr():
        tensor = module.weight
    if bias is not None and module.bias is not None and bias.data_ptr() == module.bias.data_ptr():
        bias = module.bias
    weight = ctx.parameter(tensor, "weight", module.weight_fake_quant.weight_quant(tensor))
    offset = None if bias is None else ctx.parameter(bias, "bias")
    fused: dict[str, Any] = {
        "residual": residual[0] if residual else None,
        "activation": module.activation,
        "half_step": module.half_step,
        "quant": result_quant(module.activation_post_process),
    }
    return _emit_layer(ctx, module, input, weight, offset, fused, output_size)


def _emit_layer(
    ctx: LoweringContext,
    module: QATLayer,
    x: Value,
    weight: Value,
    bias: Value | None,
    fused: dict[str, Any],
    output_size: Any = None,
) -> Value:
    if isinstance(module, (Conv1d, Conv2d)):
        m, axes = module, len(module.kernel_size)
        return emit_conv(ctx, x, weight, bias, m.stride, m.padding, m.dilation, m.groups, m.padding_mode, axes=axes, **fused)
    if isinstance(module, ConvTranspose2d):
        extra = module.output_padding if output_size is None else output_padding_for(ctx, module, x, output_size)
        return emit_conv_transpose(
            ctx, x, weight, bias, module.stride, module.padding, extra, module.groups, module.dilation, **fused
        )
    assert isinstance(module, Linear)
    residual = fused.pop("residual")
    return ctx.emit("linear", x, weight, bias, residual, **fused)


@lower_functional("add", "add_relu", cls=ResidualCalls)  # type: ignore[arg-type]
def fused_add(ctx: LoweringContext, module: QATLayer, x: Value, y: Value) -> Value:
    operands = (x, y)
    return qat_layer(ctx, module, operands[module.conv_position], operands[1 - module.conv_position])


@lower_functional("result_like", cls=ResidualCalls)  # type: ignore[arg-type]
def result_like(ctx: LoweringContext, module: QATLayer, x: Value) -> Value:
    """Only its shape is read."""
    weight, bias = ctx.parameter(module.weight, "weight"), None
    return _emit_layer(ctx, module, x, weight, bias, {"residual": None, "activation": "none", "quant": None})


# --- stubs and fake quants -------------------------------------------------------------------------------------------------


lower_module(QuantStub)(quant_stub)
lower_module(DeQuantStub)(dequant_stub)


@lower_module(QATQuantStub)
def qat_quant_stub(ctx: LoweringContext, module: QATQuantStub, x: Value) -> Value:
    return _quantize(ctx, module.activation_post_process, x, stub=True)


@lower_module(FakeQuantize, CalibFakeQuantize, LearnedScaleFakeQuantize, BoundaryFakeQuantize)
def fake_quantize(ctx: LoweringContext, module: nn.Module, x: Value | torch.Tensor) -> Value:
    """A `quantize`; of a constant (a weight), a parameter with its scale."""
    if isinstance(x, torch.Tensor):
        fake_quant = fake_quant_of(module)
        return ctx.parameter(x, "weight", None if fake_quant is None else fake_quant.weight_quant(x))
    return _quantize(ctx, module, x)


@lower_module(FoldedWeightFakeQuantize, BiasFakeQuantize)
def float_weight(ctx: LoweringContext, module: nn.Module, weight: Operand, *statistics: Operand | None) -> Operand:
    """Nothing: what is quantized is made when the batch norm is folded, and the bias when its rounding is settled."""
    return weight


@lower_module(OffGridFakeQuantize)
def off_grid(ctx: LoweringContext, module: OffGridFakeQuantize, y: Value) -> Value:
    """Nothing: the op before keeps its operand's scale, and its kernel rounds."""
    return y


@lower_module(SteepOperand)
def steep_operand(ctx: LoweringContext, module: SteepOperand, x: Value) -> Value:
    """Nothing: it changes gradients."""
    return x


@lower_module(GainPool)
def gain_pool(ctx: LoweringContext, module: GainPool, y: Value, x: Value) -> Value:
    """Nothing: the pool before is lowered by the march's arithmetic."""
    return y


@lower_module(FixedPointSample)
def fixed_point_sample(ctx: LoweringContext, module: FixedPointSample, y: Value, x: Value, grid: Operand) -> Value:
    """Nothing: the sampling before is lowered by the march's arithmetic."""
    return y


def _quantize(ctx: LoweringContext, module: nn.Module, x: Value, *, stub: bool = False) -> Value:
    fake_quant = fake_quant_of(module)
    if fake_quant is None:
        raise ctx.error(f"{type(module).__name__} is no fake quant of hqc")
    if isinstance(fake_quant, CalibFakeQuantize) and fake_quant.of_weights:
        return x  # a computed weight: its scale is that of its range, found when it is a constant
    quant = fake_quant.ir_quant()
    return ctx.emit("quantize", x, dtype=quant.dtype, rounding=fake_quant.rounding, stub=stub, quant=quant)


# --- FloatFunctional -------------------------------------------------------------------------------------------------------

_TORCH_FUNCTIONS = {name: getattr(torch, name) for name in ("div", "maximum", "minimum", "sum", "mean")}
"""Methods that only hqc's FloatFunctional has."""


def _plain_method(name: str) -> Callable[..., Value]:
    """The lowering of the torch function of this name."""

    def lower(ctx: LoweringContext, module: nn.Module, *args: Operand, **kwargs: Any) -> Value:
        lowering, _ = find_function(_TORCH_FUNCTIONS[name])
        if lowering is None:
            raise ctx.cannot(f"{name} has no lowering")
        result: Value = lowering.handler(ctx, *args, **kwargs)
        return result

    return lower


for _name in _TORCH_FUNCTIONS:
    lower_functional(_name, cls=FloatFunctional)(_plain_method(_name))


@lower_functional("matmul", cls=FloatFunctional)
def functional_matmul(
    ctx: LoweringContext, module: nn.Module, x: Operand, y: Operand, x_trans: bool = False, y_trans: bool = False
) -> Value:
    """`matmul`, of operands whose last two axes are exchanged where that is asked for."""
    matmul, transpose = find_function(torch.matmul)[0], find_function(torch.transpose)[0]
    assert matmul is not None and transpose is not None
    operands = [transpose.handler(ctx, each, -1, -2) if trans else each for each, trans in ((x, x_trans), (y, y_trans))]
    result: Value = matmul.handler(ctx, *operands)
    return result
