"""Small networks in idioms of published code that no network of the zoo has: each goes the whole way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.registry import ZooEntry
from benchmarks.zoo.whole_way import quiet, walk


class WarpsTwoWidths(nn.Module):
    """As registration networks: a field warps itself and then the picture, which has another number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 4, 1)

    def warped(self, image: Tensor, field: Tensor) -> Tensor:
        mesh = torch.meshgrid(*[torch.arange(0, size) for size in field.shape[2:]], indexing="ij")
        grid = (torch.stack(mesh)[None].to(field) + field).permute([0, 2, 3, 1])
        for axis, size in enumerate(grid.shape[1:-1]):
            grid[..., axis] = grid[..., axis] * 2 / (size - 1) - 1
        return F.grid_sample(image, grid[..., [1, 0]], align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        field = self.field(x)
        return self.head(self.warped(x, field + self.warped(field, field)))


class DoublePrecisionStep(nn.Module):
    """A projection in float64 between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        exact, other = y.double(), F.relu(y).double()
        unit = F.normalize(other, dim=1)
        parallel = (exact * unit).sum(dim=1, keepdim=True) * unit
        return self.second((exact - parallel).to(y.dtype)) + parallel.float().mean(1, keepdim=True)


class SequenceFirstAttention(nn.Module):
    """As DETR's decoders: one tensor is query and key, and the module wants the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 16, 16) * 0.1)
        self.attention, self.norm = nn.MultiheadAttention(16, 2), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).permute(0, 2, 1)
        q = k = tokens + self.position
        found = self.attention(q.transpose(0, 1), k.transpose(0, 1), tokens.transpose(0, 1))[0].transpose(0, 1)
        return self.norm(tokens + found)


class SizesOfAttention(nn.Module):
    """As window attention over einops: sizes are read of the product of five axes, which is reshaped behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        b, c, h, w = y.shape
        maps = y.reshape(b, 2, c // 2, h, w)
        values, rows = maps.permute(0, 1, 3, 4, 2), maps.mean(4).permute(0, 1, 3, 2)
        weights = torch.einsum("b h i d, b h j d -> b h i j", rows, rows).softmax(-1)
        found = torch.einsum("b h i j, b h j w d -> b h i w d", weights, values)
        if tuple(found.shape[2:4]) != (h, w):
            raise ValueError(found.shape)
        b, heads, i, k, d = found.shape
        return self.head(found.reshape(b * heads, i * k, d).permute(0, 2, 1).reshape(b, heads * d, i, k))


class PreActivatedInPlace(nn.Module):
    """As pre-activated residual blocks: the activation writes into the tensor that the sum adds, a result of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.active = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        return self.active(self.second(self.active(self.first(self.active(x)))) + x)


NETWORKS = [
    (ZooEntry("warps_two_widths", WarpsTwoWidths, ((1, 3, 16, 16),)), "bayes"),
    (ZooEntry("double_precision_step", DoublePrecisionStep, ((1, 3, 16, 16),)), "bernoulli2"),
    (ZooEntry("sequence_first_attention", SequenceFirstAttention, ((1, 3, 16, 16),)), "bayes"),
    (ZooEntry("sizes_of_attention", SizesOfAttention, ((1, 3, 8, 8),)), "bayes"),
    (ZooEntry("pre_activated_in_place", PreActivatedInPlace, ((1, 3, 12, 12),)), "bayes"),
]


@pytest.mark.parametrize(("entry", "march"), NETWORKS, ids=lambda item: getattr(item, "name", item))
def test_the_whole_way(entry: ZooEntry, march: str, tmp_path: Path) -> None:
    with quiet():
        assert "export" in walk(entry, march, tmp_path, raises=True).seconds
