"""Fake quantization: values are put on the grid they will have on the chip, while an observer follows their range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hqc.arithmetic import ROUNDINGS
from hqc.checked import numeric
from hqc.errors import CalibrationError, QConfigError
from hqc.lazy import lazily
from hqc.quantization import torch_arithmetic
from hqc.quantization.dtypes import BITS, IR_DTYPES, check_range, check_symmetric, dtype_name
from hqc.quantization.exporting import exporting
from hqc.quantization.factory import WithArgs
from hqc.quantization.observers.base import ObserverBase, fit_buffers
from hqc.quantization.observers.fixed import FixedScaleObserver
from hqc.quantization.observers.moving_average import MovingAverageMinMaxObserver
from hqc.quantization.singular import SingularPoints
from hqc.quantization.state import FakeQuantState, Stateful

if TYPE_CHECKING:
    from hqc.ir import DType, QuantParams
    from hqc.march.spec import MarchSpec


REACH = "reach"
"""Key under which a state dict holds the magnitude at the end of the grid that was found, where the statistics alone do not tell it:
it fits fake quants of any kind."""


class ScaleInfo(NamedTuple):
    """What lowering needs of a fake quant. `scale`: float32, shape `[1]` or `[C]` along `ch_axis` (None: per tensor)."""

    scale: npt.NDArray[np.float32]
    dtype: str
    ch_axis: int | None
    fixed: bool


@numeric
class FakeQuantizeBase(SingularPoints, Stateful, WithArgs, nn.Module):
    """Common part of all fake quants: the observer, the two switches, the scale's buffers and their persistence.

    The switches are Python booleans, so that no forward waits for the device; the uint8 buffers `fake_quant_enabled` and
    `observer_enabled` carry them through `state_dict`. Change them by `set_state` or the `enable_*` / `disable_*` methods.
    """

    _hqc_leaf = True
    fake_quant_enabled: Tensor
    observer_enabled: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        dtype: Any = "qint8",
        qscheme: torch.qscheme | None = None,
        ch_axis: int = -1,
        rounding: str = "half_even",
        power_of_two: bool = False,
        name: str = "",
        saturate: bool | None = None,
        in_place: bool = False,
        compat_mask: bool = True,
        channel_len: int = 1,
        **observer_kwargs: Any,
    ) -> None:
        """`saturate` False lets the gradient of saturated values pass. `in_place`, `compat_mask` and `channel_len` say how a fake quant
        keeps house, and change nothing here. Further keywords are the observer's."""
        super().__init__()
        del in_place, compat_mask, channel_len
        self.saturate = saturate is None or bool(saturate)
        self.dtype = dtype_name(dtype)
        self.quant_min, self.quant_max = check_range(self.dtype, quant_min, quant_max)
        self.qscheme = check_symmetric(qscheme, ch_axis)
        self.ch_axis = ch_axis
        if rounding not in ROUNDINGS:
            raise QConfigError(f"unknown rounding {rounding!r}; use one of: {', '.join(ROUNDINGS)}")
        self.rounding = rounding
        self.power_of_two = power_of_two
        if ch_axis >= 0:
            observer_kwargs["ch_axis"] = ch_axis
        try:
            child = observer(dtype=self.dtype, name=name, **observer_kwargs)
        except TypeError as error:
            raise QConfigError(f"the observer of a fake quant cannot be made: {error}") from None
        if not isinstance(child, ObserverBase):
            raise QConfigError(f"the observer of a fake quant must be an hqc observer, got {type(child).__name__}")
        child.power_of_two, child.rounding = power_of_two, rounding
        self.activation_post_process: ObserverBase = child
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))
        self._quantizes = self._observes = True
        self._stale = False  # observers have seen more than the scale in force says
        self._group: list[FakeQuantizeBase] = []  # those whose values share one scale with this one's, this one included

    # --- what it is ------------------------------------------------------------------------------------------------------

    @property
    def bits(self) -> int:
        return BITS[self.dtype]

    @property
    def name(self) -> str:
        """What errors call the tensor."""
        return self.activation_post_process.name

    @name.setter
    def name(self, name: str) -> None:
        self.activation_post_process.name = name

    @property
    def label(self) -> str:
        """How sentences name the tensor, with or without a name."""
        return self.activation_post_process.what

    @property
    def fixed(self) -> bool:
        """The user fixed the scale."""
        return isinstance(self.activation_post_process, FixedScaleObserver)

    @property
    def calibrated(self) -> bool:
        """True once the scale comes from data, from the user or from another fake quant."""
        return any(member.activation_post_process.calibrated for member in self.members)

    @property
    def members(self) -> list[FakeQuantizeBase]:
        """The fake quants that share one scale with this one, itself included."""
        return self._group or [self]

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """`(scale, zero_point)` in force, float32 and int64, `[1]` or `[C]`."""
        raise NotImplementedError

    def scale_info(self) -> ScaleInfo:
        """The scale for lowering; `CalibrationError` when it is unknown or not finite."""
        if not self.calibrated:
            raise CalibrationError(
                f"{self.activation_post_process.what} has no scale yet; run calibration batches (or training steps) through the "
                "prepared model before converting or exporting it"
            )
        scale = self.calculate_qparams()[0].detach().cpu().numpy().astype(np.float32)
        if not np.isfinite(scale).all():
            raise self.activation_post_process._not_finite()
        fixed = any(member.fixed for member in self.members)
        return ScaleInfo(scale, self.dtype, None if self.ch_axis < 0 else self.ch_axis, fixed)

    quant_params = scale_info

    def ir_quant(self) -> QuantParams:
        """The scale as the IR's QuantParams."""
        from hqc.ir import QuantParams

        scale, dtype, axis, fixed = self.scale_info()
        return QuantParams(scale, IR_DTYPES[dtype], axis, fixed=fixed, rounding=self.rounding)

    def weight_quant(self, weight: Tensor) -> QuantParams:
        """The scale as the IR's QuantParams, of a fake quant whose values are this parameter."""
        return self.ir_quant()

    def assign_scale(self, scale: Tensor) -> None:
        """Take over a scale found elsewhere, e.g. in calibration; observers continue from the range that gives it."""
        raise NotImplementedError

    def unrounded_scale(self) -> Tensor:
        """The scale before the march's rule (power of two) is applied; `CalibrationError` when it is unknown.

        In a group that is the fixed scale, or that of the widest member: whoever has seen the largest values decides.
        """
        if not self._group:
            return self.activation_post_process.scale()
        observers = [member.activation_post_process for member in self.members if member.activation_post_process.calibrated]
        fixed = next((observer for observer in observers if isinstance(observer, FixedScaleObserver)), None)
        if fixed is not None:
            return fixed.scale()
        if not observers:
            return self.activation_post_process.scale()
        scales = [observer.scale() for observer in observers]
        return torch.stack([scale.to(scales[0].device) for scale in scales]).amax(0)

    def join(self, group: list[FakeQuantizeBase]) -> None:
        """Share one scale with those in `group`; each has an observer of its own, the widest range decides."""
        group.append(self)
        self._group = group
        self._mark_stale()

    def alone(self) -> AbstractContextManager[None]:
        """Inside, the scale is the one that its own values ask for, where that is known, and not that of its group."""
        return nullcontext()

    def observed_elsewhere(self) -> None:
        """The observer was given the statistics of others: the scale follows when it is asked for."""
        self._mark_stale()

    def _mark_stale(self) -> None:
        """The scale in force, of every member, is to be taken from the observers anew."""
        for member in self.members:
            member._stale = True

    def _ruled(self, scale: Tensor) -> Tensor:
        """`scale` by the march's rule."""
        return torch_arithmetic.power_of_two_scale(scale) if self.power_of_two else scale

    def _require_scale(self) -> None:
        """`CalibrationError` where values are to be quantized with a scale that was never set."""
        if not self.calibrated:
            raise CalibrationError(
                f"{self.activation_post_process.what} has no scale yet, so the model cannot quantize it; run calibration batches in "
                "the state CALIBRATION (or training steps) before VALIDATION"
            )

    def set_qparams(self, scale: Any, zero_point: Any = None) -> None:
        """Set the scale (a number or a tensor `[1]` or `[C]`); zero points are 0."""
        if zero_point is not None and bool(torch.as_tensor(zero_point).any()):
            raise QConfigError(
                f"{self.activation_post_process.what}: the BPU quantizes symmetrically, the zero point must be 0"
            )
        self.assign_scale(torch.as_tensor(scale, dtype=torch.float32).reshape(-1))

    def take_over(self, other: FakeQuantizeBase) -> None:
        """Continue from the range of another fake quant, which may have another dtype or rule. A fixed scale stays."""
        if not self.fixed:
            reach = torch_arithmetic.range_from_scale(other.unrounded_scale().detach(), other.bits)[1]
            self.assign_scale(torch_arithmetic.scale_from_range(-reach, reach, self.bits))

    def initialize(self, x: Tensor) -> None:
        """Set the scale from `x` at once, whatever the switches say: how weight fake quants start."""
        raise NotImplementedError

    def fix_scale(self, scale: float) -> None:
        """Fix the scale for good, as a FixedScaleObserver does; `QConfigError` when the march cannot have it."""
        fixed = torch.tensor([scale], dtype=torch.float32)
        if self.power_of_two and not torch.equal(torch_arithmetic.power_of_two_scale(fixed), fixed):
            raise QConfigError(f"{self.activation_post_process.what}: the march needs a scale of 2^-1 ... 2^-14, got {scale:g}")
        old = self.activation_post_process
        device = next((buffer.device for buffer in old.buffers()), fixed.device)
        self.activation_post_process = FixedScaleObserver(scale, dtype=old.dtype, name=old.name, sync=old.sync).to(device)
        self.enable_observer(False)
        self.assign_scale(fixed)

    # --- switches ------------------------------------------------------------------------------------------------------------

    @property
    def quantizes(self) -> bool:
        """Values are put on the grid at present."""
        return self._quantizes

    @property
    def state(self) -> FakeQuantState | None:
        """The state in force; None when the switches were set by hand to something else."""
        for state in FakeQuantState:
            if (self._quantizes, self._observes or self.fixed) == (state.quantizes, state.observes or self.fixed):
                return state
        return None

    def set_state(self, state: FakeQuantState) -> None:
        """Switch quantizing and observing as `state` says."""
        self.enable_fake_quant(state.quantizes)
        self.enable_observer(state.observes)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        self._quantizes = enabled
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_fake_quant(self) -> None:
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Observing; a fixed scale never observes."""
        self._observes = enabled and not self.fixed
        self.observer_enabled.fill_(int(self._observes))

    def disable_observer(self) -> None:
        self.enable_observer(False)

    # --- persistence -----------------------------------------------------------------------------------------------------

    @property
    def _saves_reach(self) -> bool:
        """The observer's buffers need the observer's own rule to become a scale."""
        return not self.activation_post_process.cheap

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._saves_reach:
            observer = self.activation_post_process
            known = torch.empty(0, dtype=torch.float32)
            if observer.calibrated:
                known = torch_arithmetic.range_from_scale(observer.scale(), self.bits)[1]
            destination[prefix + REACH] = known

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + REACH, None)
        fit_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._quantizes, self._observes = bool(self.fake_quant_enabled.item()), bool(self.observer_enabled.item())


@numeric
class FakeQuantize(FakeQuantizeBase):
    """Statistics decide the scale; the gradient passes straight through where the value does not saturate.

    forward: any float tensor -> same shape, float32 arithmetic (dtype rules: `torch_arithmetic.fake_quantize`).
    `rounding` and `power_of_two` are the march's. Extra keyword arguments go to the observer.
    Buffers: `scale` float32 and `zero_point` int64, `[1]` or `[C]`.
    """

    scale: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("scale", torch.ones(1, dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int64))
        if self.activation_post_process.calibrated:
            self._refresh()
        self.enable_observer(True)

    def forward(self, x: Tensor) -> Tensor:
        seen, x = self._where_defined(x)
        if self._observes and not exporting():
            self.activation_post_process.observe(seen)
            self._mark_stale()
            if self.activation_post_process.cheap:
                self._refresh()
        if not self._quantizes:
            return x
        if self._stale:
            self._refresh()
        if not self._observes:
            self._require_scale()
        return self._guarded(
            torch_arithmetic.fake_quantize(x, self.scale, self.bits, self.rounding, self.ch_axis, self.saturate)
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def _refresh(self) -> None:
        """Renew `scale` from the observer; nothing before the first observation."""
        self._stale = False
        if not self.calibrated:
            return
        scale = self._ruled(self.unrounded_scale())
        if self.scale.shape == scale.shape:
            self.scale.copy_(scale)
        else:
            self.scale = scale.to(self.scale.device).clone()
            self.zero_point = torch.zeros_like(self.scale, dtype=torch.int64)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self._stale:
            self._refresh()
        return self.scale, self.zero_point

    @contextmanager
    def alone(self) -> Iterator[None]:
        if not self._group or not self.activation_post_process.calibrated:
            yield
            return
        group, scale, stale = self._group, self.scale.clone(), self._stale
        self._group, self._stale = [], True
        try:
            yield
        finally:
            self._group, self._stale = group, stale
            self.scale.copy_(scale)

    def assign_scale(self, scale: Tensor) -> None:
        self.activation_post_process.assign_scale(scale.detach().float().reshape(-1))
        self._mark_stale()
        self._refresh()

    def initialize(self, x: Tensor) -> None:
        self.activation_post_process.observe(x)
        self._mark_stale()
        self._refresh()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._stale:
            self._refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._stale = False

    def extra_repr(self) -> str:
        if self._stale:
            self._refresh()
        return describe(self, self.scale)


def describe(fake_quant: FakeQuantizeBase, scale: Tensor) -> str:
    """The line that fake quants print."""
    text = (
        f"fake_quant_enabled={fake_quant.fake_quant_enabled}, observer_enabled={fake_quant.observer_enabled}, "
        f"quant_min={fake_quant.quant_min}, quant_max={fake_quant.quant_max}, dtype={fake_quant.dtype}, "
        f"qscheme={fake_quant.qscheme}, ch_axis={fake_quant.ch_axis}, scale={scale}, zero_point={fake_quant.zero_point}"
    )
    if fake_quant.rounding != "half_even":
        text += f", rounding={fake_quant.rounding}"
    return f"{text}, power_of_two=True" if fake_quant.power_of_two else text


@numeric
class BoundaryFakeQuantize(nn.Module):
    """A fake quant on a value that enters the BPU from the CPU; prints under the name users know."""

    _hqc_leaf = True

    def __init__(self, activation_post_process: nn.Module) -> None:
        super().__init__()
        self.activation_post_process = activation_post_process

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(x)
        return result

    def _get_name(self) -> str:
        return "_WrappedCalibFakeQuantize"


def fake_quant_of(module: Any) -> FakeQuantizeBase | None:
    """The fake quant that `module` is or wraps; None for anything else."""
    if isinstance(module, BoundaryFakeQuantize):
        module = module.activation_post_process
    return module if isinstance(module, FakeQuantizeBase) else None


# --- building from a qconfig entry ---------------------------------------------------------------------------------------


def make_fake_quant(
    factory: Any, march: MarchSpec, *, name: str = "", dtype: DType | None = None, rounding: str | None = None
) -> FakeQuantizeBase:
    """The activation fake quant of a qconfig entry, with the march's rounding and scale rule.

    `dtype`: asked for at this place, and stronger than the qconfig's; `rounding`: here, instead of the march's. `QConfigError` when
    the march has no activations of that dtype.
    """
    asked = {} if dtype is None else {"dtype": dtype}
    fake_quant = _build(factory, name, rounding=rounding or march.rounding, power_of_two=march.power_of_two, **asked)
    if IR_DTYPES[fake_quant.dtype] not in march.activation_dtypes:
        known = ", ".join(f"q{dtype.numpy.name}" for dtype in march.activation_dtypes)
        raise QConfigError(
            f"{name or 'an activation'} asks for {fake_quant.dtype}, which {march.name} does not have; it has {known}"
        )
    if fake_quant.ch_axis >= 0:
        raise QConfigError(
            f"{name or 'an activation'} asks for scales per channel; the BPU's activations have one scale per tensor"
        )
    return fake_quant


def make_weight_fake_quant(factory: Any, march: MarchSpec, weight: Tensor, ch_axis: int, *, name: str = "") -> FakeQuantizeBase:
    """The weight fake quant of a qconfig entry, started from `weight`; `ch_axis` is its output-channel axis.

    A qconfig says per channel by a `ch_axis` of 0 or more; the module knows which axis that is.
    """
    arguments = getattr(factory, "arguments", {})
    axis = {"ch_axis": ch_axis} if arguments.get("ch_axis", -1) >= 0 else {}
    # Weights are the same on every rank: nothing to gather.
    fake_quant = _build(factory, name, power_of_two=march.power_of_two, sync=False, **axis)
    if fake_quant.bits != 8:
        raise QConfigError(f"{name or 'a layer'} asks for {fake_quant.dtype} weights; the BPU's weights are qint8")
    fake_quant.to(weight.device)
    fake_quant.initialize(weight)
    return fake_quant


def _build(factory: Any, name: str, **arguments: Any) -> FakeQuantizeBase:
    if factory is None:
        raise QConfigError(
            f"the qconfig of {name or 'a layer'} has no entry for this tensor; use one of the get_default_* qconfigs"
        )
    fake_quant = factory(name=name, **arguments)
    if not isinstance(fake_quant, FakeQuantizeBase):
        raise QConfigError(
            f"the qconfig of {name or 'a layer'} makes a {type(fake_quant).__name__}; it must make one of hqc's fake quants, "
            "e.g. FakeQuantize.with_args()"
        )
    return fake_quant


def scale_groups_of(module: nn.Module) -> list[list[FakeQuantizeBase]]:
    """The groups of fake quants of a model that share one scale, in tree order."""
    groups = {id(each._group): each._group for _, each in fake_quants(module) if len(each._group) > 1}
    return list(groups.values())


def fake_quants(module: nn.Module) -> Iterator[tuple[str, FakeQuantizeBase]]:
    """`(path, fake quant)` of every fake quant, in tree order."""
    for name, child in module.named_modules():
        if isinstance(child, FakeQuantizeBase):
            yield name, child


__getattr__, __dir__, _ = lazily(__name__, {"hqc.quantization.switches": ("fake_quantize_state", "set_fake_quantize")})
"""Scripts of users know the switches under this path too."""
