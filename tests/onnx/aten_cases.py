"""What torch code leaves opaque: one function of a tensor `[1, 8, 6, 6]` each, by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = Callable[[Tensor], Any]


def module(make: Callable[[], nn.Module], prepare: Case = lambda y: y) -> Case:
    """A module in eval mode, with weights of a fixed seed, on what `prepare` makes of the tensor."""
    torch.manual_seed(3)
    built = make().eval().requires_grad_(False)
    return lambda y: built(prepare(y))


def written(index: Any, value: Any) -> Case:
    """`y[index] = value` on a copy; `value` may be a function of y."""

    def assign(y: Tensor) -> Tensor:
        copy = y.clone()
        copy[index(y) if callable(index) else index] = value(y) if callable(value) else value
        return copy

    return assign


def sequence(y: Tensor) -> Tensor:
    """`[8, 1, 36]`: time, batch, features."""
    return y.flatten(2)[0][:, None]


GRID = torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(5)) * 2.4 - 1.2
KNOTS = torch.tensor([-0.5, 0.0, 0.5])

POINTWISE: dict[str, Case] = {
    "glu": lambda y: F.glu(y, 1),
    "celu": F.celu,
    "asin": lambda y: torch.asin(y.clamp(-0.9, 0.9)),
    "sinh": torch.sinh,
    "log1p": lambda y: y.abs().log1p(),
    "expm1": torch.expm1,
    "logit": lambda y: torch.logit(y.sigmoid()),
    "xlogy": lambda y: torch.xlogy(y, y.abs()),
    "sinc": torch.sinc,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda y: F.threshold(y, 0.1, 20.0),
    "rrelu": F.rrelu,
    "logsigmoid": F.logsigmoid,
    "remainder": lambda y: torch.remainder(y, 0.3),
    "remainder_tensor": lambda y: torch.remainder(y, y.flip(1)),
    "fmod": lambda y: torch.fmod(y, 0.3),
    "floor_divide": lambda y: y // 0.3,
    "integer_floor_divide": lambda y: (y.argmax(1) - 3) // 2,
    "integer_remainder": lambda y: (y.argmax(1) - 3) % 3,
    "atan2": lambda y: torch.atan2(y, y.flip(1)),
    "hypot": lambda y: torch.hypot(y, y.flip(1)),
    "lerp": lambda y: torch.lerp(y, y.flip(1), 0.3),
    "addcmul": lambda y: torch.addcmul(y, y, y, value=0.5),
    "where": lambda y: torch.where(y > 0, y, 0.0),
    "masked_fill": lambda y: y.masked_fill(y < 0, -1.0),
    "isnan": torch.isnan,
    "nan_to_num": torch.nan_to_num,
    "logic": lambda y: (y > 0) & (y < 1),
    "xor": lambda y: (y > 0) ^ (y < 1),
    "double": lambda y: y.double().sum().float(),
    "int8": lambda y: (y * 10).to(torch.int8),
}
REDUCTIONS: dict[str, Case] = {
    "logsumexp": lambda y: torch.logsumexp(y, 1),
    "norm": lambda y: y.norm(dim=1),
    "vector_norm": lambda y: torch.linalg.vector_norm(y, 3, 1),
    "matrix_norm": torch.linalg.matrix_norm,
    "std": lambda y: y.std(1),
    "var_mean": lambda y: torch.var_mean(y, (2, 3)),
    "prod": lambda y: y.prod(1),
    "any": lambda y: (y > 2).any(1),
    "all": lambda y: (y > -2).all(),
    "count_nonzero": lambda y: (y > 0).count_nonzero(1),
    "median": lambda y: y.median(1),
    "kthvalue": lambda y: y.kthvalue(3, 1),
    "topk": lambda y: y.flatten(2).topk(3),
    "sort": lambda y: torch.sort(y, 1),
    "argsort": lambda y: y.argsort(2, descending=True),
    "cumsum": lambda y: y.cumsum(1),
    "cumprod": lambda y: y.cumprod(1),
    "cummax": lambda y: y.cummax(1),
    "logcumsumexp": lambda y: y.logcumsumexp(1),
    "normalize": lambda y: F.normalize(y, dim=1),
    "cosine_similarity": lambda y: F.cosine_similarity(y, y.flip(1), 1),
    "pairwise_distance": lambda y: F.pairwise_distance(y, y.flip(1)),
    "dist": lambda y: torch.dist(y, y.flip(1)),
    "softmin": lambda y: F.softmin(y, 1),
    "diff": lambda y: y.diff(dim=1),
    "trapezoid": lambda y: torch.trapezoid(y, dim=1),
}
LAYOUT: dict[str, Case] = {
    "roll": lambda y: torch.roll(y, (2, -1), (1, 3)),
    "roll_flat": lambda y: torch.roll(y, 5),
    "flip": lambda y: torch.flip(y, [1, 2]),
    "rot90": lambda y: y.rot90(1, [2, 3]),
    "tril": torch.tril,
    "triu": lambda y: y.triu(1),
    "diagonal": lambda y: y.diagonal(1, 2, 3),
    "diag_embed": torch.diag_embed,
    "trace": lambda y: y[0, 0].trace(),
    "repeat_interleave": lambda y: y.repeat_interleave(2, 1),
    "meshgrid": lambda y: torch.meshgrid(y[0, 0, 0], y[0, 0, 1], indexing="xy"),
    "windows": lambda y: y.unfold(2, 3, 2),
    "channel_shuffle": lambda y: F.channel_shuffle(y, 2),
    "pixel_shuffle": lambda y: F.pixel_shuffle(y, 2),
    "pixel_unshuffle": lambda y: F.pixel_unshuffle(y, 2),
    "pad_circular": lambda y: F.pad(y, (1, 1, 1, 1), mode="circular"),
    "pad_reflect": lambda y: F.pad(y, (1, 2, 1, 0), mode="reflect"),
    "pad_replicate_3d": lambda y: F.pad(y[None], (1, 2, 1, 0, 1, 1), mode="replicate"),
    "movedim": lambda y: y.movedim(1, 3),
}
INDEXING: dict[str, Case] = {
    "gather": lambda y: y.gather(1, y.argmax(1, keepdim=True)),
    "take_along_dim": lambda y: y.take_along_dim(y.argmax(1, keepdim=True), 1),
    "take": lambda y: y.take(torch.tensor([[2, 0], [5, -6]])),
    "index_select": lambda y: y.index_select(2, torch.tensor([2, 0])),
    "index_lists": lambda y: y[:, [0, 2]][:, :, torch.tensor([1, 2]), torch.tensor([0, 3])],
    "index_apart": lambda y: y[:, torch.tensor([1, 2]), :, torch.tensor([0, -3])],
    "index_computed": lambda y: y[:, y[0, :, 0, 0].argsort()],
    "scatter": lambda y: torch.zeros(1, 8, 6, 6).scatter(1, y.argmax(1, keepdim=True), 1.0),
    "scatter_source": lambda y: y.scatter(1, y.argsort(1), y),
    "scatter_add": lambda y: y.scatter_add(1, y.argsort(1)[:, :3, :4], y[:, :5, :5]),
    "index_add": lambda y: y.index_add(1, torch.tensor([0, 0, 3]), y[:, :3]),
    "index_copy": lambda y: y.index_copy(1, torch.tensor([2, 0]), y[:, :2]),
    "index_fill": lambda y: y.index_fill(1, torch.tensor([2, 0]), 7.0),
    "write_part": written((slice(None), slice(0, 2), 0), 3.0),
    "write_rows": written((slice(None), [1, 3]), lambda y: y[:, :2] * 2),
    "write_steps": written((..., slice(0, None, 2)), lambda y: y[..., 1::2]),
    "write_mask": written(lambda y: y > 0, 0.0),
    "one_hot": lambda y: F.one_hot(y.argmax(1), 8),
    "embedding": module(lambda: nn.Embedding(8, 4), lambda y: y.argmax(1)),
    "embedding_bag": module(lambda: nn.EmbeddingBag(8, 4), lambda y: y.argmax(1)[0]),
    "isin": lambda y: torch.isin(y.argmax(1), torch.tensor([1, 2])),
    "bucketize": lambda y: torch.bucketize(y, KNOTS),
    "searchsorted": lambda y: torch.searchsorted(KNOTS, y, right=True),
}
PRODUCTS: dict[str, Case] = {
    "einsum": lambda y: torch.einsum("nchw,ncvw->nhv", y, y),
    "einsum_heads": lambda y: torch.einsum("bhid,bhjd->bhij", y, y),
    "tensordot": lambda y: torch.tensordot(y, y, ([2, 3], [2, 3])),
    "addbmm": lambda y: torch.addbmm(y[0, 0], y[0], y[0]),
    "baddbmm": lambda y: torch.baddbmm(y[0], y[0], y[0], beta=0.5, alpha=2),
    "cross": lambda y: torch.cross(y[:, :3], y[:, 3:6], dim=1),
    "kron": lambda y: torch.kron(y[0, 0], y[0, 1]),
    "bilinear": lambda y: F.bilinear(y[0, 0], y[0, 1], torch.ones(4, 6, 6)),
    "cdist": lambda y: torch.cdist(y, y),
    "cdist_1": lambda y: torch.cdist(y, y, p=1),
    "attention": lambda y: F.scaled_dot_product_attention(y, y, y),
    "attention_causal": lambda y: F.scaled_dot_product_attention(y, y, y, is_causal=True),
    "attention_mask": lambda y: F.scaled_dot_product_attention(y, y, y, attn_mask=torch.ones(6, 6).tril().bool()),
    "multihead": lambda y: MULTIHEAD(y[0], y[0], y[0]),
    "encoder_layer": module(lambda: nn.TransformerEncoderLayer(6, 2, 12), lambda y: y[0]),
    "conv_1d": module(lambda: nn.Conv1d(8, 4, 3, padding=1), lambda y: y.flatten(2)),
    "conv_3d": module(lambda: nn.Conv3d(1, 2, 3), lambda y: y[None]),
    "conv_circular": module(lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")),
    "conv_same": module(lambda: nn.Conv2d(8, 4, 4, padding="same")),
    "conv_transpose_1d": module(lambda: nn.ConvTranspose1d(8, 4, 3, 2), lambda y: y.flatten(2)),
    "conv_transpose_2d": lambda y: TRANSPOSED(y, output_size=[12, 11]),
    "conv_transpose_3d": module(lambda: nn.ConvTranspose3d(1, 2, 3, 2), lambda y: y[None]),
    "lstm": module(lambda: nn.LSTM(36, 5, 2, bidirectional=True), sequence),
    "lstm_batch_first": module(lambda: nn.LSTM(36, 5, batch_first=True), lambda y: y.flatten(2)),
    "gru": module(lambda: nn.GRU(36, 5, bidirectional=True), sequence),
    "rnn": module(lambda: nn.RNN(36, 5, nonlinearity="relu", bias=False), sequence),
    "rnn_tanh": module(lambda: nn.RNN(36, 5), sequence),
    "lstm_cell": module(lambda: nn.LSTMCell(6, 4), lambda y: y[0, 0]),
    "gru_cell": module(lambda: nn.GRUCell(6, 4), lambda y: y[0, 0]),
}
MULTIHEAD = nn.MultiheadAttention(6, 2).eval().requires_grad_(False)
TRANSPOSED = nn.ConvTranspose2d(8, 4, 3, 2, 1).requires_grad_(False)
WINDOWS: dict[str, Case] = {
    "max_pool_indices": lambda y: F.max_pool2d(y, 3, 2, 1, return_indices=True),
    "max_pool_dilated": lambda y: F.max_pool2d(y, 2, 2, 1, 2, ceil_mode=True),
    "max_pool_3d": lambda y: F.max_pool3d(y[None], 2),
    "max_pool_1d": lambda y: F.max_pool1d(y[0], 3, 2, 1),
    "max_unpool": lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2),
    "max_unpool_1d": lambda y: F.max_unpool1d(*F.max_pool1d(y[0], 2, return_indices=True), 2),
    "avg_pool_ceil": lambda y: F.avg_pool2d(y, 3, 2, 1, ceil_mode=True),
    "avg_pool_without_padding": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "avg_pool_divisor": lambda y: F.avg_pool2d(y, 2, divisor_override=3),
    "avg_pool_3d": lambda y: F.avg_pool3d(y[None], 2),
    "avg_pool_1d": lambda y: F.avg_pool1d(y[0], 3, 2, 1),
    "adaptive_avg_1d": lambda y: F.adaptive_avg_pool1d(y[0], 4),
    "adaptive_avg_3d": lambda y: F.adaptive_avg_pool3d(y[None], (3, 4, 5)),
    "adaptive_max": lambda y: F.adaptive_max_pool2d(y, (4, 5), return_indices=True),
    "lp_pool": lambda y: F.lp_pool2d(y.abs(), 2, 2),
    "bicubic": lambda y: F.interpolate(y, scale_factor=1.7, mode="bicubic"),
    "trilinear": lambda y: F.interpolate(y[None], size=(5, 9, 7), mode="trilinear"),
    "linear": lambda y: F.interpolate(y[0], size=9, mode="linear"),
    "bilinear_corners": lambda y: F.interpolate(y, size=(5, 9), mode="bilinear", align_corners=True),
    "antialias": lambda y: F.interpolate(y, size=(4, 3), mode="bilinear", antialias=True),
    "antialias_bicubic": lambda y: F.interpolate(y, size=(4, 9), mode="bicubic", antialias=True),
    "area": lambda y: F.interpolate(y, size=(4, 5), mode="area"),
    "nearest_3d": lambda y: F.interpolate(y[None], size=(5, 9, 7)),
    "nearest_exact": lambda y: F.interpolate(y, size=(5, 9), mode="nearest-exact"),
    "grid_sample": lambda y: F.grid_sample(y, GRID, align_corners=False),
    "grid_sample_nearest": lambda y: F.grid_sample(y, GRID, mode="nearest", padding_mode="border", align_corners=True),
    "grid_sample_reflect": lambda y: F.grid_sample(y, GRID, padding_mode="reflection", align_corners=False),
    "grid_sample_computed": lambda y: F.grid_sample(y, y[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
    "affine_grid": lambda y: F.affine_grid(y[0, 0, :2, :3][None], [1, 8, 6, 6], align_corners=False),
    "unfold": lambda y: F.unfold(y, 3, padding=1, stride=2),
    "fold": lambda y: F.fold(F.unfold(y, 3, padding=1, dilation=2, stride=2), (6, 6), 3, padding=1, dilation=2, stride=2),
}
NORMS: dict[str, Case] = {
    "local_response": nn.LocalResponseNorm(2),
    "instance": F.instance_norm,
    "group": module(lambda: nn.GroupNorm(2, 8)),
    "layer": module(lambda: nn.LayerNorm([6, 6])),
    "rms": lambda y: F.rms_norm(y, [6]),
    "batch_statistics": module(lambda: nn.BatchNorm2d(8, track_running_stats=False)),
    "batch_1d": module(lambda: nn.BatchNorm1d(6), lambda y: y[0]),
    "batch_3d": module(lambda: nn.BatchNorm3d(1), lambda y: y[None]),
}
FAMILIES = {
    "pointwise": POINTWISE,
    "reductions": REDUCTIONS,
    "layout": LAYOUT,
    "indexing": INDEXING,
    "products": PRODUCTS,
    "windows": WINDOWS,
    "norms": NORMS,
}
CASES = {f"{family}.{name}": case for family, cases in FAMILIES.items() for name, case in cases.items()}

REFUSED: dict[str, tuple[Case, str]] = {
    "nonzero": (torch.nonzero, "the shape that aten.nonzero.default gives depends on the data"),
    "masked_select": (lambda y: y.masked_select(y > 0), "depends on the data"),
    "mask_index": (lambda y: y[y > 0], "keeps as many elements as the data decides"),
    "control_flow": (lambda y: y if y.sum() > 0 else -y, "depends on the data it gets"),
    "random": (lambda y: y + torch.rand_like(y), "draws random numbers"),
    "complex": (lambda y: torch.fft.rfft(y).abs(), "torch.complex64"),
    "inverse": (lambda y: torch.linalg.inv(y + 9 * torch.eye(6)), "aten.linalg_inv.default"),
    "bits": (lambda y: y.argmax(1) & 3, "works on their bits"),
}
