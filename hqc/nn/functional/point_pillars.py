"""Point clouds as pillars (Lang et al., "PointPillars", CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import InputError


@numeric
def voxelization(
    points: Tensor, voxel_size: Sequence[float], pc_range: Sequence[float], max_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Points `[P,D]` (x, y, z first) grouped into cells of a grid.

    `pc_range`: x, y, z smallest, then largest. Returns the voxels `[V, max_points, D]` filled with 0, their coordinates `[V,3]` as
    (z, y, x), and the counts `[V]`. Voxels and points in them are in the order in which the points come.
    """
    size = torch.as_tensor(voxel_size, dtype=torch.float32, device=points.device)
    low, high = (torch.as_tensor(part, dtype=torch.float32, device=points.device) for part in (pc_range[:3], pc_range[3:]))
    shape = torch.round((high - low) / size).long()
    cells = torch.floor((points[:, :3] - low) / size).long()
    inside = ((cells >= 0) & (cells < shape)).all(1)
    points, cells = points[inside], cells[inside]
    flat = (cells[:, 2] * shape[1] + cells[:, 1]) * shape[0] + cells[:, 0]
    _, voxel = torch.unique(flat, return_inverse=True)
    count = int(voxel.max()) + 1 if len(voxel) else 0
    position = torch.arange(len(voxel), device=points.device)
    first = position.new_full((count,), len(voxel)).scatter_reduce(0, voxel, position, "amin")
    rank = torch.empty_like(first)
    rank[first.argsort()] = torch.arange(count, device=points.device)
    voxel = rank[voxel]  # numbered by their first point
    kept = min(count, max_voxels)
    order = torch.sort(voxel, stable=True).indices
    counts = torch.bincount(voxel, minlength=count)
    starts = torch.cumsum(counts, 0) - counts
    slot = torch.empty_like(voxel)
    slot[order] = position - starts[voxel[order]]
    fits = (voxel < kept) & (slot < max_points)
    voxels = points.new_zeros(kept, max_points, points.shape[1])
    voxels[voxel[fits], slot[fits]] = points[fits]
    coordinates = cells[first.sort().values][:kept].flip(1)
    return voxels, coordinates, counts[:kept].clamp(max=max_points)


@numeric
def point_pillars_preprocess(
    points_list: Sequence[Tensor],
    pc_range: Any,
    voxel_size: Any,
    max_voxels: int,
    max_points_per_voxel: int,
    use_max: bool = True,
    norm_range: Any = None,
    norm_dims: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pillars of a batch of point clouds, each `[P,D]`.

    Returns features `[1, D, max_points, V]`, where V is the number of pillars of the batch (with `use_max`, `max_voxels` a sample,
    filled with 0), and coordinates `[V,4]` as (sample, z, y, x), -1 where filled. `norm_dims`, `norm_range`: these columns are mapped
    from their (smallest..., largest...) to 0..1.
    """
    features, coordinates = [], []
    for sample, points in enumerate(points_list):
        voxels, cells, _ = voxelization(points, voxel_size, pc_range, max_points_per_voxel, max_voxels)
        if norm_dims is not None:
            bounds = torch.as_tensor(norm_range, dtype=voxels.dtype, device=voxels.device).view(2, -1)
            used = voxels.abs().sum(-1, keepdim=True) > 0
            columns = list(norm_dims)
            normal = (voxels[..., columns] - bounds[0, : len(columns)]) / (bounds[1] - bounds[0])[: len(columns)]
            voxels[..., columns] = torch.where(used, normal, torch.zeros_like(normal))
        cells = torch.nn.functional.pad(cells, (1, 0), value=sample)
        missing = max_voxels - len(voxels) if use_max else 0
        features.append(torch.cat([voxels, voxels.new_zeros(missing, *voxels.shape[1:])]))
        coordinates.append(torch.cat([cells, cells.new_full((missing, 4), -1)]))
    return torch.cat(features).permute(2, 1, 0).unsqueeze(0).contiguous(), torch.cat(coordinates)


@numeric
def point_pillars_scatter(voxel_features: Tensor, coords: Tensor, output_shape: Sequence[int]) -> Tensor:
    """The features of pillars at their places: `[V, C]` (or `[V, C, 1, 1]`, `[1, C, 1, V]`), (sample, z, y, x) -> `[N,C,H,W]`.

    `output_shape`: N, C, H, W, or H, W where one sample is meant. Coordinates of -1 are left out; the last of equal ones stays.
    """
    count = len(coords)
    if voxel_features.dim() == 4 and voxel_features.shape[0] == 1 and voxel_features.shape[-1] == count and count != 1:
        voxel_features = voxel_features.permute(3, 1, 0, 2)
    features = voxel_features.reshape(count, -1)
    if len(output_shape) not in (2, 4):
        raise InputError(f"output_shape has N, C, H, W or H, W; got {list(output_shape)}")
    height, width = output_shape[-2:]
    batch = output_shape[0] if len(output_shape) == 4 else int(coords[:, 0].max().clamp(min=0)) + 1
    valid = (coords >= 0).all(1)
    sample, _, y, x = coords[valid].long().unbind(1)
    canvas = features.new_zeros(batch * height * width, features.shape[1])
    canvas[(sample * height + y) * width + x] = features[valid]
    return canvas.view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()
