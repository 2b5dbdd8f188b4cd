"""SegmentLUT, under the path of the reference."""

from hqc.nn.quantized.modules import SegmentLUT

__all__ = ["SegmentLUT"]
