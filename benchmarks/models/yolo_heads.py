"""Detection heads of YOLOv8 and YOLO11: the same branches, five ways to end.

* `raw`: six convolution outputs, box and class logits per scale.
* `sigmoid`: class scores instead of logits (log `j5_yolov8s`).
* `nhwc`: class logits and boxes per scale, permuted to NHWC (D-Robotics; log `x5_yolov8n`).
* `dfl`: all scales joined, boxes as distances by the distribution focal loss layer (log `x3_yolov8n_official`).
* `decode`: boxes decoded to centre, width and height in pixels (the published head's output).
"""

from __future__ import annotations

import torch
from torch import nn

from .yolo_blocks import Conv

BINS = 16  # of the distribution over each box side
ENDS = ("raw", "sigmoid", "nhwc", "dfl", "decode")


class DFL(nn.Module):
    """Expected distance of each box side: softmax over bins, then a fixed 1x1 convolution with the bins' indices."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False)
        self.conv.weight.data = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
        self.conv.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, anchors = x.shape
        return self.conv(x.view(n, 4, BINS, anchors).transpose(2, 1).softmax(1)).view(n, 4, anchors)


class Detect(nn.Module):
    """Box branch `cv2` and class branch `cv3` per scale, ended as `end` says. `depthwise`: YOLO11's class branch."""

    def __init__(self, channels: tuple[int, ...], classes: int, act: type[nn.Module], end: str, depthwise: bool) -> None:
        super().__init__()
        if end not in ENDS:
            raise ValueError(f"unknown head {end!r}; known: {', '.join(ENDS)}")
        self.end, self.classes = end, classes
        box = max(16, channels[0] // 4, BINS * 4)
        cls = max(channels[0], min(classes, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(c, box, 3, act=act), Conv(box, box, 3, act=act), nn.Conv2d(box, 4 * BINS, 1)) for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(*self._class_convs(c, cls, act, depthwise), nn.Conv2d(cls, classes, 1)) for c in channels
        )
        if end in ("dfl", "decode"):
            self.dfl = DFL()

    @staticmethod
    def _class_convs(channels: int, hidden: int, act: type[nn.Module], depthwise: bool) -> list[nn.Module]:
        if not depthwise:
            return [Conv(channels, hidden, 3, act=act), Conv(hidden, hidden, 3, act=act)]
        return [nn.Sequential(Conv(c, c, 3, groups=c, act=act), Conv(c, hidden, 1, act=act)) for c in (channels, hidden)]

    def forward(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, ...] | torch.Tensor:
        if self.end == "nhwc":
            pairs = [(self.cv3[i](x), self.cv2[i](x)) for i, x in enumerate(features)]
            return tuple(part.permute(0, 2, 3, 1).contiguous() for pair in pairs for part in pair)
        boxes, scores = [], []
        for i, x in enumerate(features):
            boxes.append(self.cv2[i](x))
            scores.append(self.cv3[i](x).sigmoid() if self.end == "sigmoid" else self.cv3[i](x))
        if self.end in ("raw", "sigmoid"):
            return tuple(part for pair in zip(boxes, scores, strict=True) for part in pair)
        return self._joined(boxes, scores)

    def _joined(self, boxes: list[torch.Tensor], scores: list[torch.Tensor]) -> torch.Tensor:
        maps = [torch.cat(pair, 1) for pair in zip(boxes, scores, strict=True)]
        joined = torch.cat([part.view(part.shape[0], 4 * BINS + self.classes, -1) for part in maps], 2)
        box, cls = joined.split((4 * BINS, self.classes), 1)
        distances = self.dfl(box)
        if self.end == "dfl":
            return torch.cat((distances, cls.sigmoid()), 1)
        left_top, right_bottom = distances.chunk(2, 1)
        first, last = self.anchors - left_top, self.anchors + right_bottom
        centre = (first + last) / 2
        return torch.cat((torch.cat((centre, last - first), 1) * self.strides, cls.sigmoid()), 1)

    def set_anchors(self, image: tuple[int, int], strides: tuple[int, ...]) -> None:
        """Grid points and strides for images of `image` = (height, width): constants of the decoded head."""
        points, steps = [], []
        for stride in strides:
            y, x = torch.meshgrid(torch.arange(image[0] // stride) + 0.5, torch.arange(image[1] // stride) + 0.5, indexing="ij")
            points.append(torch.stack((x.flatten(), y.flatten())))
            steps.append(torch.full((1, x.numel()), float(stride)))
        self.register_buffer("anchors", torch.cat(points, 1).unsqueeze(0), persistent=False)
        self.register_buffer("strides", torch.cat(steps, 1), persistent=False)
