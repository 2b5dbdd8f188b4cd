"""Results that keep their operand's scale but fall between its grid points (section 8 of the arithmetic).

In training they are put back on that grid, rounding down as the kernels do.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hqc import arithmetic
from hqc.quantization.exporting import exporting
from hqc.quantization.fake_quantize import FakeQuantizeBase
from hqc.quantization.sampling import sample_in_fixed_point
from hqc.quantization.torch_arithmetic import fake_quantize_off_grid


class OffGridFakeQuantize(nn.Module):
    """Puts the result `y` of an operation (a bilinear resize, a grid sample) back on the grid of its operand.

    `source`: the operand's fake quant, which this module follows (scale, and whether it quantizes) and does not own.
    """

    _hqc_leaf = True

    def __init__(self, source: FakeQuantizeBase) -> None:
        super().__init__()
        self._source = [source]  # in a list: it has its place in the module tree already

    @property
    def source(self) -> FakeQuantizeBase:
        return self._source[0]

    def forward(self, y: Tensor) -> Tensor:
        return self._on_grid(y) if self.source.quantizes else y

    def _on_grid(self, y: Tensor) -> Tensor:
        return fake_quantize_off_grid(y, self.source.calculate_qparams()[0].detach(), self.source.bits)

    def extra_repr(self) -> str:
        return f"source={self.source.name}"


class FixedPointSample(OffGridFakeQuantize):
    """Makes a grid sample what the BPU computes: coordinates in fixed point, the result on the image's grid.

    forward: `y`, what `F.grid_sample` made of `x`, the image `[N,C,H,W]`, and `grid` `[N,H',W',2]`.
    """

    def __init__(self, source: FakeQuantizeBase, mode: str, padding_mode: str, align_corners: bool) -> None:
        super().__init__(source)
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners

    def forward(self, y: Tensor, x: Tensor, grid: Tensor) -> Tensor:  # type: ignore[override]
        if not self.source.quantizes or exporting():
            return y
        return self._on_grid(sample_in_fixed_point(x, grid, self.mode, self.padding_mode, self.align_corners))


class GainPool(OffGridFakeQuantize):
    """Makes an average what `bernoulli` computes: `(sum * g) >> 9` on the operand's grid, large windows in several stages.

    forward: `y`, the average as torch computed it, and `x`, its operand `[N,C,H,W]`. `window`: the kernel of a pool; None for
    an adaptive pool, or for a mean over both image axes (`mean`), where the shapes tell. A mean over 2^k elements is exact.
    """

    def __init__(self, source: FakeQuantizeBase, window: tuple[int, int] | None = None, *, mean: bool = False) -> None:
        super().__init__(source)
        self.window = window
        self.mean = mean

    def forward(self, y: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        stages = self._stages(y, x) if self.source.quantizes and x.dim() == 4 else ()
        if len(stages) == 1 and self.window is not None:  # strides and padding are in y
            return self._on_grid(y * _gain(stages[0]))
        for stage in stages:
            x = self._on_grid(F.avg_pool2d(x, stage) * _gain(stage))
        return x.reshape(y.shape) if stages else y

    def _stages(self, y: Tensor, x: Tensor) -> tuple[tuple[int, int], ...]:
        height, width = x.shape[2:]
        if self.window is not None:
            window = self.window
        elif self.mean:
            window = (height, width)
            if height * width & (height * width - 1) == 0:
                return ()
        else:
            window = (height // y.shape[2], width // y.shape[3])
        return arithmetic.bernoulli_pool_stages(*window) or ()


def _gain(stage: tuple[int, int]) -> float:
    """What the multiplier makes of an average over the window."""
    count = stage[0] * stage[1]
    return count * arithmetic.bernoulli_pool_gain(count) / 512.0
