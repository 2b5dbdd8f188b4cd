"""The arithmetic of layer reconstruction: weights and biases on their grid that bring a layer's results closest to the float ones.

A layer is `y = X w + b` over rows of its operand. Given the rows that the quantized model feeds it and the results that the float model
has, the best real weights are a ridge regression; they are then put on the grid column by column, each rounding error made up for by
the columns that are not rounded yet (Frantar et al., "Optimal Brain Compression", NeurIPS 2022, and "GPTQ", ICLR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.arithmetic import bounds
from hqc.quantization import torch_arithmetic

RIDGE = 0.01
"""Weight of the float weights in the regression, in units of the mean variance of the rows: what few samples say is not believed."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
"""Weight ranges that are tried, as shares of the largest weight."""


@dataclass(frozen=True)
class Rows:
    """`x`: `[G, N, D]`, the operand's rows per group; `target`: `[G, N, O/G]`, what each should give."""

    x: Tensor
    target: Tensor


def rows_of(layer: nn.Module, x: Tensor, target: Tensor, limit: int, generator: torch.Generator) -> Rows | None:
    """At most `limit` random rows of one batch; None for layers that are no convolution or linear layer of rows.

    `x`: the operand; `target`: `[N, O, ...]` (linear: `[..., O]`), without bias and residual taken off.
    """
    if isinstance(layer, nn.Linear):
        rows, wanted = x.reshape(1, -1, x.shape[-1]), target.reshape(1, -1, target.shape[-1])
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode == "zeros":
        patches = _patches(layer, x)
        groups = layer.groups
        n, d, length = patches.shape
        rows = patches.reshape(n, groups, d // groups, length).permute(1, 0, 3, 2).reshape(groups, n * length, -1)
        flat = target.reshape(n, groups, -1, length)
        wanted = flat.permute(1, 0, 3, 2).reshape(groups, n * length, -1)
    else:
        return None
    count = rows.shape[1]
    if count > limit:
        chosen = torch.randperm(count, generator=generator)[:limit].sort().values
        rows, wanted = rows[:, chosen], wanted[:, chosen]
    return Rows(rows.double(), wanted.double())


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """`[N, C k, L]`."""
    kernel, stride, dilation = (list(pair) for pair in (layer.kernel_size, layer.stride, layer.dilation))
    if isinstance(layer.padding, str):
        totals = [0 if layer.padding == "valid" else d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    else:
        pads = [(size, size) for size in layer.padding]
    x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    if x.dim() == 3:
        x, kernel, stride, dilation = x.unsqueeze(2), [1, *kernel], [1, *stride], [1, *dilation]
    return F.unfold(x, tuple(kernel), dilation=tuple(dilation), stride=tuple(stride))


@dataclass(frozen=True)
class Reconstructed:
    """`weight`: float, on its grid, of the layer's shape; `bias`: `[O]`; `scale`: `[O]`."""

    weight: Tensor
    bias: Tensor
    scale: Tensor


def reconstruct(layer: nn.Module, weight: Tensor, rows: Rows, *, power_of_two: bool) -> Reconstructed:
    """The weights on an int8 grid of one scale per output channel, and the bias. `weight`: the layer's own, float."""
    groups = rows.x.shape[0]
    own = weight.detach().double().reshape(groups, weight.shape[0] // groups, -1)  # [G, O, D]
    mean_x, mean_y = rows.x.mean(1, keepdim=True), rows.target.mean(1, keepdim=True)
    x, y = rows.x - mean_x, rows.target - mean_y
    count = max(x.shape[1], 1)
    hessian = x.transpose(1, 2) @ x / count
    ridge = RIDGE * torch.diagonal(hessian, dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    damped = hessian + ridge.view(-1, 1, 1) * torch.eye(hessian.shape[1], dtype=torch.float64)
    moment = y.transpose(1, 2) @ x / count + ridge.view(-1, 1, 1) * own
    real = torch.linalg.solve(damped, moment.transpose(1, 2)).transpose(1, 2)
    scale = _scales(real, torch.diagonal(damped, dim1=1, dim2=2), power_of_two)
    rounded = _round_columns(real, scale, damped)
    bias = (mean_y - mean_x @ rounded.transpose(1, 2)).reshape(-1)
    return Reconstructed(rounded.reshape(weight.shape).float(), bias.float(), scale.reshape(-1).float())


def _scales(weight: Tensor, importance: Tensor, power_of_two: bool) -> Tensor:
    """`[G, O, 1]`: of several ranges per channel the one with the smallest weighted rounding error."""
    widest = torch_arithmetic.scale_from_range(-weight.abs().amax(2), weight.abs().amax(2)).double()
    widest = torch.where(widest <= 1.001e-7, widest.max(), widest).unsqueeze(2)
    candidates = [(widest * share).float() for share in SHRINKS]
    if power_of_two:
        ruled = torch_arithmetic.power_of_two_scale(widest.float())
        candidates = [ruled, torch_arithmetic.power_of_two_scale(ruled / 2)]
    low, high = bounds(8)
    best = torch.full(weight.shape[:2], torch.inf, dtype=torch.float64).unsqueeze(2)
    chosen = candidates[0]
    for scale in candidates:
        error = weight - (weight / scale.double()).round().clamp(low, high) * scale.double()
        cost = (error**2 * importance.unsqueeze(1)).sum(2, keepdim=True)
        chosen, best = torch.where(cost < best, scale, chosen), torch.minimum(cost, best)
    return chosen.double()


def _round_columns(weight: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """`[G, O, D]` on the grid, columns in order of their importance, the errors of each made up for by those behind."""
    order = torch.diagonal(hessian, dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    columns = order.unsqueeze(1).expand_as(weight)
    rest = weight.gather(2, columns)
    ordered = hessian.gather(1, order.unsqueeze(2).expand_as(hessian)).gather(2, order.unsqueeze(1).expand_as(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor = torch.linalg.cholesky(inverse).transpose(1, 2)  # upper: row i says how column i's error is spread
    low, high = bounds(8)
    done = torch.empty_like(rest)
    for i in range(rest.shape[2]):
        column = rest[:, :, i]
        done[:, :, i] = (column / scale[:, :, 0]).round().clamp(low, high) * scale[:, :, 0]
        error = (column - done[:, :, i]) / factor[:, i, i].unsqueeze(1)
        rest[:, :, i + 1 :] -= error.unsqueeze(2) * factor[:, i, i + 1 :].unsqueeze(1)
    return torch.empty_like(done).scatter_(2, columns, done)
