"""Boxes `[N,4]` as corners (x1, y1, x2, y2): overlaps, suppression, decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import InputError


@numeric
def box_iou(first: Tensor, second: Tensor, offset: float = 0.0) -> Tensor:
    """Intersection over union, `[N,4]` and `[M,4]` -> `[N,M]`. `offset` 1 counts the last pixel of a box as inside."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    sides = (torch.minimum(first[:, None, 2:], second[None, :, 2:]) - corner + offset).clamp(min=0.0)
    common = sides.prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + offset).clamp(min=0.0).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return torch.where(union > 0, common / union, torch.zeros_like(union))


def _suppress(overlaps: Tensor, order: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better kept one overlaps by more than the threshold, best first."""
    kept: list[int] = []
    alive = torch.ones(len(order), dtype=torch.bool, device=order.device)
    for index in order.tolist():
        if bool(alive[index]):
            kept.append(index)
            alive &= overlaps[index] <= iou_threshold
    return torch.tensor(kept, dtype=torch.int64, device=order.device)


@numeric
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: int64 indices of the boxes that stay, best first. Ties go to the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return _suppress(box_iou(boxes, boxes), order, iou_threshold)


@numeric
def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """As `nms`, for boxes `[N,5]`: centre x, y, width, height, angle in radians (counter-clockwise)."""
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise InputError(f"nms_rotated takes boxes [N,5] (x, y, width, height, angle), got shape {list(boxes.shape)}")
    corners = [_corners(box) for box in boxes.detach().cpu().double().numpy()]
    overlaps = torch.tensor([[_polygon_iou(a, b) for b in corners] for a in corners], dtype=torch.float64).reshape(
        len(boxes), -1
    )
    order = torch.sort(scores, descending=True, stable=True).indices
    return _suppress(overlaps.to(boxes.device), order, iou_threshold)


@numeric
def batched_nms_with_padding(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    pre_nms_top_n: int = -1,
    post_nms_top_n: int = -1,
    pad_mode: str | None = None,
) -> Tensor:
    """Indices kept by suppression among the boxes of each class `idxs`, best first, at most `post_nms_top_n`.

    `pre_nms_top_n`: that many best boxes enter. `pad_mode`: None returns fewer where fewer stay; "pad_zero" fills with -1 up to
    `post_nms_top_n`, "rollover" repeats the kept ones from the start.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[:pre_nms_top_n] if pre_nms_top_n > 0 else order
    overlaps = box_iou(boxes[order], boxes[order])
    if idxs is not None:
        overlaps = torch.where(idxs[order][:, None] == idxs[order][None, :], overlaps, torch.zeros_like(overlaps))
    kept = order[_suppress(overlaps, torch.arange(len(order), device=order.device), iou_threshold)]
    if post_nms_top_n <= 0:
        return kept
    kept = kept[:post_nms_top_n]
    missing = post_nms_top_n - len(kept)
    if pad_mode is None or missing == 0:
        return kept
    if pad_mode == "pad_zero":
        return torch.cat([kept, kept.new_full((missing,), -1)])
    if pad_mode != "rollover":
        raise InputError(f"pad_mode must be None, 'pad_zero' or 'rollover', got {pad_mode!r}")
    return kept[torch.arange(post_nms_top_n, device=kept.device) % max(len(kept), 1)] if len(kept) else kept


@numeric
def decode(anchors: Tensor, deltas: Tensor, clip_size: tuple[int, int] | None = None) -> Tensor:
    """Boxes from anchors `[..., 4]` and regression results (dx, dy, dw, dh) of the same shape; clipped to an image (height, width)."""
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + 0.5 * sizes + deltas[..., :2] * sizes
    half = 0.5 * torch.exp(deltas[..., 2:]) * sizes
    boxes = torch.cat([centres - half, centres + half], dim=-1)
    if clip_size is None:
        return boxes
    height, width = clip_size
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return boxes.clamp(min=0.0).minimum(limits)


@numeric
def get_top_n(tensors: Tensor | list[Tensor], indices: Tensor, n: int, order: bool = False) -> Any:
    """The first `n` rows, by `indices`, of each tensor; with `order` the indices are sorted first, so that rows keep their place."""
    chosen = indices[:n]
    chosen = torch.sort(chosen).values if order else chosen
    if isinstance(tensors, Tensor):
        return tensors[chosen]
    return [tensor[chosen] for tensor in tensors]


# --- rotated boxes ---------------------------------------------------------------------------------------------------------------

_Polygon = npt.NDArray[np.float64]


def _corners(box: _Polygon) -> _Polygon:
    x, y, width, height, angle = box
    cos, sin = np.cos(angle), np.sin(angle)
    offsets = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    return np.asarray(offsets @ np.array([[cos, sin], [-sin, cos]]) + [x, y])


def _area(polygon: _Polygon) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _polygon_iou(first: _Polygon, second: _Polygon) -> float:
    """Of two convex polygons with counter-clockwise corners: the first is cut along every edge of the second."""
    clipped = first
    for start, end in zip(second, np.roll(second, -1, axis=0), strict=True):
        if len(clipped) == 0:
            break
        edge = end - start
        side = edge[0] * (clipped[:, 1] - start[1]) - edge[1] * (clipped[:, 0] - start[0])
        points: list[_Polygon] = []
        for i in range(len(clipped)):
            j = (i + 1) % len(clipped)
            if side[i] >= 0:
                points.append(clipped[i])
            if side[i] * side[j] < 0:
                points.append(clipped[i] + (clipped[j] - clipped[i]) * side[i] / (side[i] - side[j]))
        clipped = np.array(points)
    common = _area(clipped) if len(clipped) else 0.0
    union = _area(first) + _area(second) - common
    return common / union if union > 0 else 0.0
