"""Sampling of volumes at computed positions, of which opset 11 has no operation."""

from __future__ import annotations

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import CallWriter, aten, shape
from hqc.backends.onnx.emitters.sampling import Sampling, spelled_out
from hqc.ir import DType, TensorType, Value

_MODES, _PADDINGS = ("bilinear", "nearest"), ("zeros", "border", "reflection")  # by torch's numbers


@aten("grid_sampler_3d.default")
def grid_sampler_3d(c: Call, w: CallWriter) -> Value:
    """Volumes `[N,C,D,H,W]` at positions `[N,D',H',W',3]`, (x, y, z) from -1 to 1."""
    x, grid = (w.cast(w.value(c[name]), DType.FLOAT32) for name in ("input", "grid"))
    mode, padding = _MODES[c["interpolation_mode"]], _PADDINGS[c["padding_mode"]]
    sampling = Sampling(shape(x), shape(grid), mode, padding, bool(c["align_corners"]))
    result = spelled_out(w.builder, w.name(x), w.name(grid), sampling)
    return w.cast(w.named(result, TensorType(DType.FLOAT32, tuple(c.shape)), x, grid), c.dtype)
