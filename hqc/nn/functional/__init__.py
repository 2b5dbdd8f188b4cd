"""Functions of perception models: boxes, windows, point pillars, colours."""

from hqc.nn.functional.boxes import batched_nms_with_padding, box_iou, decode, get_top_n, nms, nms_rotated
from hqc.nn.functional.images import bgr_to_yuv444, filter, window_partition, window_reverse
from hqc.nn.functional.point_pillars import point_pillars_preprocess, point_pillars_scatter, voxelization

__all__ = [
    "batched_nms_with_padding",
    "bgr_to_yuv444",
    "box_iou",
    "decode",
    "filter",
    "get_top_n",
    "nms",
    "nms_rotated",
    "point_pillars_preprocess",
    "point_pillars_scatter",
    "voxelization",
    "window_partition",
    "window_reverse",
]
