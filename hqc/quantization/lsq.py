"""Learned step size quantization (Esser et al., "Learned Step Size Quantization", ICLR 2020): the scale is a parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hqc.arithmetic import FLOAT32_EPS, bounds
from hqc.checked import numeric
from hqc.errors import CalibrationError, QConfigError
from hqc.quantization import torch_arithmetic
from hqc.quantization.exporting import exporting
from hqc.quantization.fake_quantize import FakeQuantizeBase, describe
from hqc.quantization.observers.fixed import FixedScaleObserver


class _LearnedFakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, gradient_scale: float, bits: int, rounding: str, rounding_error: bool
    ) -> Tensor:
        ratio = x / scale
        low, high = bounds(bits)
        integer = torch_arithmetic.round_to_int(ratio, rounding).clamp_(low, high)
        ctx.save_for_backward(ratio, integer)
        ctx.limits = torch_arithmetic.pass_limits(rounding, bits)
        ctx.scale_shape, ctx.gradient_scale, ctx.rounding_error = scale.shape, gradient_scale, rounding_error
        return integer * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        ratio, integer = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(grad, ratio, *ctx.limits)
        # d(q s)/ds is q where x saturates and q - x/s inside (equation 3 of the paper); of a clip alone, 0 inside
        to_scale = (grad * integer).sub_(passed * ratio) if ctx.rounding_error else (grad - passed) * integer
        return passed, to_scale.sum_to_size(ctx.scale_shape).mul_(ctx.gradient_scale), None, None, None, None


@numeric
class LearnedScaleFakeQuantize(FakeQuantizeBase):
    """Fake quant whose `scale` is a parameter with the gradient scaled by 1 / sqrt(N Qp).

    N is the number of elements that share a scale: of a weight channel, or of one sample of an activation. Calibration sets it, or
    the first batch to 2 mean|x| / sqrt(Qp); of weights, their range does. In the state CALIBRATION the observer decides, in
    VALIDATION the scale is as trained. Parameter `scale`: float32 `[1]` or `[C]`; members of a group have one.
    """

    initialized: Tensor
    rounding_error = True  # the gradient of the scale counts it

    def __init__(
        self,
        *args: Any,
        scale: float | None = None,
        zero_point: float = 0.0,
        use_grad_scaling: bool = True,
        **kwargs: Any,
    ) -> None:
        """`scale`: to start from (a fixed scale's, for the observer that has one); `use_grad_scaling` False: the gradient as it is."""
        observer = kwargs.get("observer", args[0] if args else None)
        if scale is not None and observer is FixedScaleObserver:
            kwargs, scale = {**kwargs, "scale": scale}, None
        super().__init__(*args, **kwargs)
        if zero_point:
            raise QConfigError(f"the BPU quantizes symmetrically: the zero point must be 0, got {zero_point}")
        self.use_grad_scaling = use_grad_scaling
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("initialized", torch.zeros(1, dtype=torch.uint8))
        self._known = False
        if self.fixed:
            self.assign_scale(self.activation_post_process.scale())
            self.scale.requires_grad_(False)
        elif scale is not None:
            self.assign_scale(torch.tensor([float(scale)], dtype=torch.float32))
        self.enable_observer(True)

    @property
    def calibrated(self) -> bool:
        return super().calibrated or any(isinstance(member, type(self)) and member._known for member in self.members)

    def join(self, group: list[FakeQuantizeBase]) -> None:
        super().join(group)
        if isinstance(group[0], LearnedScaleFakeQuantize):
            self.scale = group[0].scale

    def forward(self, x: Tensor) -> Tensor:
        if self._observes and not self._quantizes:
            self.activation_post_process.observe(x)
            for member in self.members:
                if isinstance(member, LearnedScaleFakeQuantize):
                    member._known = False  # calibration decides anew
            return x
        if not self._quantizes:
            return x
        if not self._observes:
            self._require_scale()
        seen, x = self._where_defined(x)
        if not self._known:
            self._start(seen.detach())
        scale = torch_arithmetic.along(self._effective_scale(), self.ch_axis, x.dim())
        if torch.is_grad_enabled() and not exporting() and (x.requires_grad or self.scale.requires_grad):
            result: Tensor = _LearnedFakeQuantize.apply(  # type: ignore[no-untyped-call]
                x.float(), scale, self._gradient_scale(x), self.bits, self.rounding, self.rounding_error
            )
            return self._guarded(result if torch.is_autocast_enabled(x.device.type) else result.to(x.dtype))
        return torch_arithmetic.fake_quantize(x, self._effective_scale().detach(), self.bits, self.rounding, self.ch_axis)

    def _effective_scale(self) -> Tensor:
        """Positive whatever the optimizer does; on power-of-two marches rounded, with a straight-through gradient."""
        scale = self.scale.abs().clamp(min=FLOAT32_EPS)
        if self.power_of_two:
            return scale + (torch_arithmetic.power_of_two_scale(scale.detach()) - scale.detach())
        return scale

    def _gradient_scale(self, x: Tensor) -> float:
        if not self.use_grad_scaling:
            return 1.0
        shared = x.numel() / self.scale.numel() if self.ch_axis >= 0 else x.numel() / max(x.shape[0] if x.dim() else 1, 1)
        return 1.0 / math.sqrt(max(shared, 1.0) * self.quant_max)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        """From calibration where there was one, else from `x`; in a group the widest first batch decides."""
        if super().calibrated:
            self.assign_scale(super().unrounded_scale())
        else:
            self._start_from(x.float())

    def _start_from(self, x: Tensor) -> None:
        if self.ch_axis >= 0:
            mean = x.abs().transpose(0, self.ch_axis).flatten(1).mean(1)
            mean = torch.where(mean == 0, mean.max(), mean)
        else:
            mean = x.abs().mean().view(1)
        if self.activation_post_process._synchronized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        if mean.device.type == "cpu" and not bool(mean.isfinite().all()):
            raise self.activation_post_process._not_finite()
        scale = (2.0 * mean / math.sqrt(self.quant_max)).clamp(min=FLOAT32_EPS)
        if self._others_know():
            scale = torch.maximum(scale, self._positive_scale())
        self.assign_scale(scale)

    def _others_know(self) -> bool:
        """Another member of the group has set the scale."""
        return any(isinstance(member, type(self)) and member._known for member in self.members if member is not self)

    def _positive_scale(self) -> Tensor:
        return self.scale.detach().abs().clamp(min=FLOAT32_EPS)

    @torch.inference_mode(False)
    @torch.no_grad()
    def assign_scale(self, scale: Tensor) -> None:
        scale = scale.detach().float().reshape(-1).to(self.scale.device)
        if self.scale.shape == scale.shape:
            self.scale.copy_(scale)
        else:
            self.scale = nn.Parameter(scale.clone(), requires_grad=self.scale.requires_grad)
            self.zero_point = torch.zeros_like(scale, dtype=torch.int64)
        self.initialized.fill_(1)
        self._known = True

    def unrounded_scale(self) -> Tensor:
        if not self._known:
            return super().unrounded_scale()
        return self._positive_scale()

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        self.assign_scale(torch_arithmetic.scale_of_values(x, self.bits, self.ch_axis))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if not self.calibrated:
            raise CalibrationError(
                f"{self.activation_post_process.what} has no scale yet; run a batch through the prepared model first"
            )
        if not self._known and super().calibrated:
            self._start(self.scale)
        return self._effective_scale().detach(), self.zero_point

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        loaded = state_dict.get(prefix + "scale")
        if isinstance(loaded, Tensor) and loaded.shape != self.scale.shape and min(loaded.numel(), self.scale.numel()) == 1:
            self.scale = nn.Parameter(self.scale.new_ones(loaded.shape), requires_grad=self.scale.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._known = bool(self.initialized.item())

    def extra_repr(self) -> str:
        return describe(self, self.scale.detach())


@numeric
class PACTFakeQuantize(LearnedScaleFakeQuantize):
    """The clip is learned (Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018).

    The clip `alpha` is the end of the grid on both sides, kept as the scale `alpha / 127.5`; its gradient comes from values that
    saturate, and is not scaled. `alpha`: to start from; calibration replaces it.
    """

    rounding_error = False

    def __init__(self, *args: Any, alpha: float = 6.0, **kwargs: Any) -> None:
        if not alpha > 0.0:
            raise QConfigError(f"alpha must be positive, got {alpha}")
        super().__init__(*args, **{**kwargs, "use_grad_scaling": False})
        if not self._known:
            reach = torch.tensor([float(alpha)], dtype=torch.float32)
            self.assign_scale(torch_arithmetic.scale_from_range(-reach, reach, self.bits))
