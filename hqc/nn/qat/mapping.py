"""Which quantized-training class stands for which float module with which fusions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

from hqc.nn.qat import conv, conv_transpose, kept_batch_norm, linear
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.stubs import QuantStub
from hqc.quantization.qconfig import QConfig

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec
    from hqc.quantization.fake_quantize import FakeQuantizeBase

LAYERS: tuple[type[QATLayer], ...] = (
    conv.Conv2d,
    conv.ConvReLU2d,
    conv.ConvReLU62d,
    conv.ConvAdd2d,
    conv.ConvAddReLU2d,
    conv.ConvAddReLU62d,
    conv.Conv1d,
    conv.ConvReLU1d,
    conv.ConvReLU61d,
    conv.ConvAdd1d,
    conv.ConvAddReLU1d,
    conv.ConvAddReLU61d,
    conv_transpose.ConvTranspose2d,
    conv_transpose.ConvTransposeReLU2d,
    conv_transpose.ConvTransposeReLU62d,
    conv_transpose.ConvTransposeAdd2d,
    conv_transpose.ConvTransposeAddReLU2d,
    conv_transpose.ConvTransposeAddReLU62d,
    linear.Linear,
    linear.LinearReLU,
    linear.LinearReLU6,
    linear.LinearAdd,
    linear.LinearAddReLU,
    linear.LinearAddReLU6,
    kept_batch_norm.ConvBn2d,
    kept_batch_norm.ConvBnReLU2d,
    kept_batch_norm.ConvBnReLU62d,
    kept_batch_norm.ConvBnAdd2d,
    kept_batch_norm.ConvBnAddReLU2d,
    kept_batch_norm.ConvBnAddReLU62d,
    kept_batch_norm.ConvTransposeBn2d,
    kept_batch_norm.ConvTransposeBnReLU2d,
    kept_batch_norm.ConvTransposeBnReLU62d,
    kept_batch_norm.ConvTransposeBnAdd2d,
    kept_batch_norm.ConvTransposeBnAddReLU2d,
    kept_batch_norm.ConvTransposeBnAddReLU62d,
)
_KEPT = kept_batch_norm.KeptBatchNorm
_BY_VARIANT = {(layer.float_class, layer.activation, layer.residual, issubclass(layer, _KEPT)): layer for layer in LAYERS}
_FLOAT_CLASSES = {layer.float_class for layer in LAYERS}


class QATModules:
    """The mapping as the emitter uses it."""

    def accepts(self, module: nn.Module) -> bool:
        """True for a float module (of exactly these classes) that has quantized-training twins."""
        return type(module) in _FLOAT_CLASSES

    def keeps_batch_norm(self, module: nn.Module, norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
        """True when the float `module` has twins that keep the batch normalization `norm` behind it."""
        return (type(module), "none", False, True) in _BY_VARIANT and kept_batch_norm.can_keep(norm)

    def unit_convolution(self, norm: nn.BatchNorm2d | nn.SyncBatchNorm, *, kept: bool) -> nn.Conv2d:
        """The depthwise 1x1 convolution with weights 1 for a `norm` that has no layer before it.

        Its weights train like those of `norm` when that is folded into it; behind it, they stay 1 (`kept`).
        """
        like = norm.running_var
        assert like is not None
        channels = norm.num_features
        conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=like.device, dtype=like.dtype)
        nn.init.ones_(conv.weight)
        conv.weight.requires_grad_(not kept and (norm.weight is None or norm.weight.requires_grad))
        return conv.train(norm.training)

    def build(
        self,
        module: nn.Module,
        *,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        activation: str,
        residual: bool,
        weight_fake_quant: Any,
        activation_post_process: nn.Module | None,
        march: MarchSpec,
        batch_norm: nn.BatchNorm2d | None = None,
    ) -> QATLayer:
        """The twin of `module` with these parameters and fusions; `weight_fake_quant` is a qconfig's entry.

        `batch_norm`: to be kept (the parameters are then not folded); convolutions only.
        """
        layer_class = _BY_VARIANT[type(module), activation, residual, batch_norm is not None]
        layer: QATLayer = layer_class.build(
            module,
            weight=weight,
            bias=bias,
            qconfig=QConfig(None, weight_fake_quant),
            activation_post_process=activation_post_process,
            march=march,
            **({} if batch_norm is None else {"bn": batch_norm}),
        )
        return layer


qat_module = QATModules()


def qat_stub(module: nn.Module, fake_quant: FakeQuantizeBase) -> QuantStub:
    """The twin of a QuantStub (hqc's or torch's); a scale fixed on the stub fixes the fake quant's."""
    scale = getattr(module, "scale", None)
    if scale is not None:
        fake_quant.fix_scale(float(scale))
    return QuantStub(fake_quant)
