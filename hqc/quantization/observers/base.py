"""What every observer is: a module that watches tensors and answers with a scale."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import CalibrationError, QConfigError
from hqc.quantization.dtypes import BITS, check_range, check_symmetric, dtype_name
from hqc.quantization.factory import WithArgs


@numeric
class ObserverBase(WithArgs, nn.Module):
    """Watches a stream of tensors in a few kB of buffers; `scale()` is the float32 scale `[1]` or `[C]` of what it saw.

    `ch_axis` -1 is per tensor. `name`: what errors call the tensor. `sync`: under `torch.distributed` every `observe` is a
    collective, so that all ranks see the statistics of all ranks' data; switch it off to observe on one rank only.
    Subclasses implement `_observe(x)`, `scale()`, `calibrated`, `merge(other)`, `assign_scale(scale)` and `reset()`.
    """

    supports_channels = False
    power_of_two = (
        False  # the march's rule for scales, which the fake quant sets; observers that weigh errors search among such scales
    )
    rounding = "half_even"  # how the fake quant rounds
    cheap = True  # `scale()` costs a few element operations, so a fake quant may ask after every batch

    def __init__(
        self,
        *,
        dtype: Any = "qint8",
        ch_axis: int = -1,
        name: str = "",
        sync: bool = True,
        is_sync_quantize: bool | None = None,
        qscheme: torch.qscheme | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """`is_sync_quantize`: another name of `sync`. `qscheme`, `quant_min`, `quant_max`: checked. `factory_kwargs`: no effect."""
        super().__init__()
        del factory_kwargs
        self.dtype = dtype_name(dtype)
        self.ch_axis = ch_axis
        self.name = name
        self.sync = sync if is_sync_quantize is None else bool(is_sync_quantize)
        check_symmetric(qscheme, ch_axis)
        check_range(self.dtype, quant_min, quant_max)
        if ch_axis >= 0 and not self.supports_channels:
            raise QConfigError(f"{type(self).__name__} works per tensor, got ch_axis={ch_axis}; use a per-channel observer")

    @property
    def bits(self) -> int:
        return BITS[self.dtype]

    @property
    def calibrated(self) -> bool:
        """True once a scale is known."""
        raise NotImplementedError

    @property
    def what(self) -> str:
        """How errors name the tensor."""
        return self.name or "an unnamed tensor"

    def forward(self, x: Tensor) -> Tensor:
        """Observe `x` and hand it on unchanged."""
        self.observe(x)
        return x

    @torch.inference_mode(False)  # statistics that begin in inference mode must be able to go on outside it
    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take `x` (any float dtype, any shape) into the statistics; `CalibrationError` when it is not finite."""
        if x.numel() or self._synchronized():
            self._observe(x.detach().float())

    def _observe(self, x: Tensor) -> None:
        raise NotImplementedError

    def scale(self) -> Tensor:
        """float32 `[1]` or `[C]`; `CalibrationError` before any observation."""
        raise NotImplementedError

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """`(scale, zero_point)`; zero points are 0."""
        scale = self.scale()
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    def merge(self, other: Any) -> None:
        """Take in what another observer of this class saw, as if this one had seen it too."""
        raise NotImplementedError

    def assign_scale(self, scale: Tensor) -> None:
        """Forget the statistics and answer with `scale` until new data comes."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def _synchronized(self) -> bool:
        return self.sync and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def _require_calibrated(self) -> None:
        if not self.calibrated:
            raise CalibrationError(
                f"{self.what} has never been observed, so its scale is unknown; run a few batches through the prepared "
                "model first"
            )

    def _not_finite(self) -> CalibrationError:
        return CalibrationError(
            f"{self.what} contains NaN or infinity, so no range fits it; look at the operation that produces it (0 / 0 comes of a divisor "
            "that a grid rounds to 0: add an eps to it, and let the operations around it run on the CPU, with hybrid_dict) and at the "
            "input data"
        )

    def _check_mergeable(self, other: Any) -> None:
        if type(other) is not type(self) or other.dtype != self.dtype or other.ch_axis != self.ch_axis:
            raise CalibrationError(
                f"cannot merge {type(other).__name__} of {other.what} into {type(self).__name__} of {self.what}"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        fit_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._after_load()

    def _after_load(self) -> None:
        """Buffers were replaced: renew what is derived from them."""


def fit_buffers(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Give buffers whose size is only known after the first batch the shape that `state_dict` has for them."""
    for name, buffer in module._buffers.items():
        loaded = state_dict.get(prefix + name)
        if buffer is None or not isinstance(loaded, Tensor) or loaded.shape == buffer.shape:
            continue
        if buffer.numel() <= 1 or loaded.numel() <= 1:
            module._buffers[name] = buffer.new_empty(loaded.shape)


def checked_constant(averaging_constant: float) -> float:
    """The weight of a new batch in a moving average; `QConfigError` outside [0, 1]."""
    if not 0.0 <= averaging_constant <= 1.0:
        raise QConfigError(f"averaging_constant must lie between 0 (frozen) and 1, got {averaging_constant}")
    return float(averaging_constant)
