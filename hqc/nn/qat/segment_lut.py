"""SegmentLUT, under the path of the reference."""

from hqc.nn.qat.results import SegmentLUT

__all__ = ["SegmentLUT"]
