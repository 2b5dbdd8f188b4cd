"""What detection models put around their heads: anchors, alignment of regions, post-processing. On torch, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import InputError
from hqc.nn.functional.boxes import batched_nms_with_padding, decode
from hqc.nn.functional.point_pillars import point_pillars_scatter


@numeric
class AnchorGenerator(nn.Module):
    """Anchors of feature maps, one `[1, A * 4, H, W]` a map, as corners; A = scales x ratios, ratios first.

    `feat_strides`: pixels between neighbours of each map. `scales`: sizes as multiples of the base size; `ratios`: height / width.
    `base_sizes`: of each map; the strides by default.
    """

    _hqc_leaf = True

    def __init__(
        self,
        feat_strides: Sequence[int],
        scales: Sequence[float] | Tensor,
        ratios: Sequence[float] | Tensor,
        base_sizes: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.feat_strides = list(feat_strides)
        self.base_sizes = list(base_sizes or feat_strides)
        self.scales, self.ratios = (torch.as_tensor(each, dtype=torch.float32) for each in (scales, ratios))

    def forward(self, feature_maps: list[Tensor]) -> list[Tensor]:
        if len(feature_maps) != len(self.feat_strides):
            raise InputError(f"AnchorGenerator has {len(self.feat_strides)} strides, got {len(feature_maps)} feature maps")
        return [
            self._of(maps, stride, base)
            for maps, stride, base in zip(feature_maps, self.feat_strides, self.base_sizes, strict=True)
        ]

    def _of(self, maps: Tensor, stride: int, base: float) -> Tensor:
        height, width = maps.shape[-2:]
        root = self.ratios.sqrt()
        sides = torch.stack([(1 / root)[:, None] * self.scales, root[:, None] * self.scales], -1).reshape(-1, 2) * base / 2
        shapes = torch.cat([-sides, sides], 1).to(maps.device)  # [A, 4] around the centre
        x = (torch.arange(width, device=maps.device) * stride + (base - 1) / 2).expand(height, width)
        y = (torch.arange(height, device=maps.device) * stride + (base - 1) / 2).view(-1, 1).expand(height, width)
        centres = torch.stack([x, y, x, y])  # [4, H, W]
        return (shapes[:, :, None, None] + centres).reshape(1, -1, height, width)


@numeric
class MultiScaleRoIAlign(nn.Module):
    """Features of regions, each from the level of the pyramid that fits its size (Lin et al., "Feature Pyramid Networks", CVPR 2017).

    `forward(featuremaps, boxes)`: maps `[N,C,H,W]`, finest first, and per sample boxes `[K,4]` in pixels of the image ->
    `[sum K, C, output_size]`. Averages of `sampling_ratio` squared bilinear samples per cell; `aligned` shifts by half a pixel.
    """

    _hqc_leaf = True

    def __init__(
        self,
        output_size: int | tuple[int, int],
        feature_strides: int | Sequence[int],
        sampling_ratio: int = 1,
        interpolate_mode: str = "bilinear",
        canonical_box_size: int = 224,
        canonical_level: int = 4,
        aligned: bool | None = False,
    ) -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.feature_strides = [feature_strides] if isinstance(feature_strides, int) else list(feature_strides)
        if interpolate_mode not in ("bilinear", "nearest"):
            raise InputError(f"interpolate_mode must be bilinear or nearest, got {interpolate_mode!r}")
        self.sampling_ratio, self.interpolate_mode = max(sampling_ratio, 1), interpolate_mode
        self.canonical_box_size, self.canonical_level, self.aligned = canonical_box_size, canonical_level, bool(aligned)

    def forward(self, featuremaps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        merged = torch.cat(boxes)
        sample = torch.cat([each.new_full((len(each),), index, dtype=torch.long) for index, each in enumerate(boxes)])
        level = self._levels(merged)
        result = featuremaps[0].new_zeros(len(merged), featuremaps[0].shape[1], *self.output_size)
        for index, (maps, stride) in enumerate(zip(featuremaps, self.feature_strides, strict=True)):
            for image in range(len(boxes)):
                chosen = torch.nonzero((level == index) & (sample == image))[:, 0]
                if len(chosen):
                    result[chosen] = self._align(maps[image], merged[chosen] / stride)
        return result

    def _levels(self, boxes: Tensor) -> Tensor:
        finest = math.log2(self.feature_strides[0])
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).prod(1).sqrt()
        level = torch.floor(self.canonical_level + torch.log2(size / self.canonical_box_size) + 1e-6) - finest
        return level.clamp(0, len(self.feature_strides) - 1).long()

    def _align(self, maps: Tensor, boxes: Tensor) -> Tensor:
        height, width = maps.shape[1:]
        shift = 0.5 if self.aligned else 0.0
        rows, columns = (size * self.sampling_ratio for size in self.output_size)
        start, extent = boxes[:, :2] - shift, boxes[:, 2:] - boxes[:, :2]
        extent = extent if self.aligned else extent.clamp(min=1.0)
        u = (torch.arange(columns, device=maps.device) + 0.5) / columns
        v = (torch.arange(rows, device=maps.device) + 0.5) / rows
        x = start[:, :1] + u * extent[:, :1]  # [K, columns], in pixels whose centres are whole numbers
        y = start[:, 1:] + v * extent[:, 1:]
        grid = torch.stack(
            [
                (2 * x / max(width - 1, 1) - 1)[:, None, :].expand(-1, rows, -1),
                (2 * y / max(height - 1, 1) - 1)[:, :, None].expand(-1, -1, columns),
            ],
            -1,
        )
        sampled = F.grid_sample(
            maps.expand(len(boxes), -1, -1, -1), grid, self.interpolate_mode, padding_mode="border", align_corners=True
        )
        return F.avg_pool2d(sampled, self.sampling_ratio)


@numeric
class DetectionPostProcess(nn.Module):
    """Scores and regression results of several levels to boxes: filter, decode, suppress.

    `forward(data, anchors, image_sizes=None)`: per level `[N, A * (C + 4), H, W]` (for each anchor its class scores, then dx, dy, dw,
    dh), anchors `[1 or N, A * 4, H, W]`, sizes (height, width) per sample -> per sample boxes `[K,4]`, scores `[K]`, classes `[K]`,
    best first, at most `post_nms_top_k`. `class_offsets`: added to the classes of each level.
    """

    _hqc_leaf = True

    def __init__(
        self,
        num_classes: int,
        box_filter_threshold: float,
        class_offsets: Sequence[int] | None = None,
        use_clippings: bool = True,
        image_size: tuple[int, int] | None = None,
        nms_threshold: float = 0.5,
        pre_nms_top_k: int = -1,
        post_nms_top_k: int = 100,
        nms_padding_mode: str | None = None,
        nms_margin: float = 0.0,
        use_stable_sort: bool | None = None,
        bbox_min_hw: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        del use_stable_sort, nms_margin  # sorting is stable, and no margin is left to the chip's sorter
        self.num_classes, self.box_filter_threshold = num_classes, box_filter_threshold
        self.class_offsets = None if class_offsets is None else list(class_offsets)
        self.use_clippings, self.image_size, self.nms_threshold = use_clippings, image_size, nms_threshold
        self.pre_nms_top_k, self.post_nms_top_k = pre_nms_top_k, post_nms_top_k
        self.nms_padding_mode, self.bbox_min_hw = nms_padding_mode, bbox_min_hw

    def forward(
        self, data: Sequence[Tensor], anchors: Sequence[Tensor], image_sizes: Any = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        results = []
        for sample in range(len(data[0])):
            size = self.image_size if image_sizes is None else tuple(int(each) for each in image_sizes[sample])
            found = [self._level(index, level[sample], anchors[index], sample, size) for index, level in enumerate(data)]
            boxes, scores, classes = (torch.cat(part) for part in zip(*found, strict=True))
            kept = batched_nms_with_padding(
                boxes, scores, classes, self.nms_threshold, self.pre_nms_top_k, self.post_nms_top_k, self.nms_padding_mode
            )
            results.append((boxes[kept], scores[kept], classes[kept]))
        return results

    def _level(self, index: int, data: Tensor, anchors: Tensor, sample: int, size: Any) -> tuple[Tensor, Tensor, Tensor]:
        height, width = data.shape[-2:]
        values = data.reshape(-1, self.num_classes + 4, height, width).permute(2, 3, 0, 1).reshape(-1, self.num_classes + 4)
        shapes = anchors[min(sample, len(anchors) - 1)].reshape(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        scores, classes = values[:, : self.num_classes].max(1)
        kept = scores > self.box_filter_threshold
        boxes = decode(shapes[kept], values[kept, self.num_classes :], size if self.use_clippings else None)
        sides = boxes[:, 2:] - boxes[:, :2]
        large = (sides[:, 1] >= self.bbox_min_hw[0]) & (sides[:, 0] >= self.bbox_min_hw[1])
        offset = 0 if self.class_offsets is None else self.class_offsets[index]
        return boxes[large], scores[kept][large], classes[kept][large] + offset


@numeric
class DetectionPostProcessV1(DetectionPostProcess):
    """As `DetectionPostProcess`, with the arguments of the older version; scores are compared after `exp` overflow is cut off."""

    def __init__(
        self,
        num_classes: int,
        box_filter_threshold: float,
        class_offsets: Sequence[int],
        use_clippings: bool,
        image_size: tuple[int, int],
        nms_threshold: float,
        pre_nms_top_k: int,
        post_nms_top_k: int,
        nms_padding_mode: str | None = None,
        nms_margin: float = 0.0,
        use_stable_sort: bool | None = None,
        bbox_min_hw: tuple[float, float] = (0.0, 0.0),
        exp_overwrite: Any = torch.exp,
        input_shift: int = 4,
    ) -> None:
        del exp_overwrite, input_shift
        super().__init__(
            num_classes,
            box_filter_threshold,
            class_offsets,
            use_clippings,
            image_size,
            nms_threshold,
            pre_nms_top_k,
            post_nms_top_k,
            nms_padding_mode,
            nms_margin,
            use_stable_sort,
            bbox_min_hw,
        )


@numeric
class RcnnPostProcess(nn.Module):
    """The second stage: per region the best class, its box, suppression.

    `forward(boxes, scores, deltas)`: boxes per sample `[K,4]` (or wider rows whose first four count), class scores
    `[N * K, C + 1]` (or with two axes of size 1 behind), background last unless `cls_decode_in_order`, and `[N * K, 4 C]` regression
    results -> per sample `[M, 6]` rows x1, y1, x2, y2, score, class.
    """

    _hqc_leaf = True

    def __init__(
        self,
        image_size: tuple[int, int] = (1024, 2048),
        nms_threshold: float = 0.3,
        box_filter_threshold: float = 0.1,
        num_classes: int = 1,
        post_nms_top_k: int = 100,
        delta_mean: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        delta_std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        image_size_fixed: bool = False,
    ) -> None:
        super().__init__()
        del image_size_fixed
        self.image_size, self.nms_threshold, self.box_filter_threshold = image_size, nms_threshold, box_filter_threshold
        self.num_classes, self.post_nms_top_k = num_classes, post_nms_top_k
        self.delta_mean, self.delta_std = torch.tensor(delta_mean), torch.tensor(delta_std)

    def forward(self, boxes: list[Tensor], scores: Tensor, deltas: Tensor, image_sizes: Any = None) -> list[Tensor]:
        scores, deltas = scores.flatten(1).softmax(-1), deltas.flatten(1)
        results, start = [], 0
        for sample, regions in enumerate(boxes):
            stop = start + len(regions)
            size: Any = self.image_size if image_sizes is None else tuple(int(each) for each in image_sizes[sample])
            best, classes = scores[start:stop, : self.num_classes].max(1)
            every = deltas[start:stop].reshape(len(regions), -1, 4)
            chosen = every[torch.arange(len(regions), device=every.device), classes.clamp(max=every.shape[1] - 1)]
            chosen = chosen * self.delta_std.to(chosen) + self.delta_mean.to(chosen)
            kept = best > self.box_filter_threshold
            found = decode(regions[kept, :4], chosen[kept], size)
            order = batched_nms_with_padding(found, best[kept], classes[kept], self.nms_threshold, -1, self.post_nms_top_k)
            results.append(torch.cat([found[order], best[kept][order, None], classes[kept][order, None].to(found)], 1))
            start = stop
        return results


@numeric
class PointPillarsScatter(nn.Module):
    """`hqc.nn.functional.point_pillars_scatter` onto a canvas of `output_shape`."""

    _hqc_leaf = True

    def __init__(self, output_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.output_shape = output_shape

    def forward(self, voxel_features: Tensor, coords: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        shape = self.output_shape if output_shape is None else output_shape
        if shape is None:
            raise InputError("PointPillarsScatter needs an output_shape (N, C, H, W), in its constructor or in the call")
        return point_pillars_scatter(voxel_features, coords, shape)
