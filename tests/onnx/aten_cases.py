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


def cleared_bias(y: Tensor) -> Tensor:
    """A copy of a constant is changed in place, as windowed attention clears the bias of its keys."""
    bias = OFFSETS.clone()
    bias[3:5].zero_()
    mask = y.new_zeros(6, 6)
    mask[:, 2:4] = 1
    return y + bias[:, None, None] + mask


def written_into_parts_without_elements(y: Tensor) -> Tensor:
    """Shifted windows over an input that is no larger than one window: two of the three parts are empty."""
    mask, copied = y.new_zeros(6, 6), y.clone()
    for index, part in enumerate((slice(0, -6), slice(-6, -6), slice(-6, None))):
        mask[part] = index
        copied[:, :, part] = y[:, :, part] * 2
    return copied + mask.masked_fill(mask != 0, -100.0)


def written_into_a_copy_of_a_constant(y: Tensor) -> Tensor:
    copied = MEMORY.clone()
    copied[:, :4].copy_(y[:, :4])
    copied[:, 6:] = y[:, 4:6] * 2
    return copied


def written_into_what_it_makes(y: Tensor) -> Tensor:
    """The last keys of a cache: nothing of what is written into depends on the operand."""
    made = torch.full((1, 8, 6, 6), 0.5)
    made[:, :, 1:3].copy_(y[:, :, :2])
    made[0, 0].add_(1)
    return made


def joined_on_places(y: Tensor) -> list[Tensor]:
    """Scatters of every kind that join what falls on the same place, with and without what is there."""
    at = y.argsort(1) // 2
    kinds = [(how, kept) for how in ("sum", "mean", "prod", "amax", "amin") for kept in (True, False)]
    found = [y.scatter_reduce(1, at[:, :5, :4], y[:, :5, :5], how, include_self=kept) for how, kept in kinds]
    rows = torch.tensor([0, 0, 3])
    found += [y.index_reduce(1, rows, y[:, :3], how, include_self=kept) for how, kept in kinds if how != "sum"]
    return [*found, y.scatter(1, at, y, reduce="multiply"), y.scatter(1, at, 2.0, reduce="add")]


OFFSETS = torch.linspace(-1, 1, 8)
MEMORY = torch.linspace(-1, 1, 8 * 36).reshape(1, 8, 6, 6)
GRID = torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(5)) * 2.4 - 1.2
PLACES = torch.rand(2, 2, 3, 4, 3, generator=torch.Generator().manual_seed(6)) * 2.4 - 1.2
LONG = torch.tensor([2, 0, 5])
KNOTS = torch.tensor([-0.5, 0.0, 0.5])
POSES = 2 * torch.eye(3) + torch.rand(3, 3, generator=torch.Generator().manual_seed(7))

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
    "histc": lambda y: torch.histc(y, 5, -1.0, 2.0),
    "histc of places": lambda y: torch.histc(y.argmax(1).float(), bins=8, min=0, max=7),
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
    "median with NaN": lambda y: y.flatten(1).log().median(1),
    "mode": lambda y: (y.flatten(1) * 2).round().mode(1),
    "kthvalue": lambda y: y.kthvalue(3, 1),
    "topk": lambda y: y.flatten(2).topk(3),
    "sort": lambda y: torch.sort(y, 1),
    "sort of many equals": lambda y: (y.flatten(1) * 2).long().sort(1),
    "topk of many equals": lambda y: (y.flatten(1) * 2).long().topk(20, 1),
    "argsort of truths": lambda y: (y.flatten(1) > 0).long().argsort(1, descending=True),
    "kthvalue of many equals": lambda y: (y.flatten(1) * 2).long().kthvalue(30, 1, keepdim=True),
    "argsort": lambda y: y.argsort(2, descending=True),
    "cumsum": lambda y: y.cumsum(1),
    "cumprod": lambda y: y.cumprod(1),
    "cummax": lambda y: y.cummax(1),
    "logcumsumexp": lambda y: y.logcumsumexp(1),
    "normalize": lambda y: F.normalize(y, dim=1),
    "quantile": lambda y: y.quantile(0.3, dim=1),
    "nanmean": lambda y: torch.where(y > 0, y, torch.nan).nanmean(1),
    "isclose": lambda y: torch.isclose(y, y.flip(1), rtol=0.5),
    "cosine_similarity_of_numbers": lambda y: F.cosine_similarity(y[0, 0, 0, 0], y[0, 0, 0, 1], dim=0),
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
    "pad_replicate_what_is_left": lambda y: F.pad(y, (-7, 8, 0, 1), mode="replicate"),
    "pad_circular": lambda y: F.pad(y, (1, 1, 1, 1), mode="circular"),
    "pad_reflect": lambda y: F.pad(y, (1, 2, 1, 0), mode="reflect"),
    "pad_replicate_3d": lambda y: F.pad(y[None], (1, 2, 1, 0, 1, 1), mode="replicate"),
    "movedim": lambda y: y.movedim(1, 3),
}
INDEXING: dict[str, Case] = {
    "cleared_bias": cleared_bias,
    "written_into_a_copy_of_a_constant": written_into_a_copy_of_a_constant,
    "written_into_parts_without_elements": written_into_parts_without_elements,
    "written_into_what_it_makes": written_into_what_it_makes,
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
    "joined_on_places": joined_on_places,
    "index_put_accumulate": lambda y: y.index_put((LONG[:1] * 0, LONG), y[0, :3], accumulate=True),
    "index_of_numbers": lambda y: [
        y[0, 0, 0, 0].index_fill(0, LONG[1:2], 3.0),
        y[0, 0, 0, 0].scatter_add(0, LONG[1], y[0, 0, 0, 1]),
    ],
    "write_rows_of_a_mask": written((slice(None), OFFSETS > 0.5), lambda y: y[:, :2]),
    "write_in_turn": written(OFFSETS[:1] < 0, lambda y: y[:1] * 2),
    "masked_scatter": lambda y: y.masked_scatter(y > 0, y.flip(1)),
    "narrow_computed": lambda y: torch.narrow(y, 1, (y.sum() > 0).long() + 2, 3),
    "diagonal_scatter": lambda y: y.diagonal_scatter(y[:, :, :, 0][:, :, :5], 1, 2, 3),
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
    "bucketize_computed": lambda y: torch.bucketize(y, y[0, 0, 0].abs().cumsum(0)),
    "searchsorted_rows": lambda y: torch.searchsorted(y.sort(-1).values.contiguous(), y[..., :3].contiguous(), right=True),
    "searchsorted": lambda y: torch.searchsorted(KNOTS, y, right=True),
}
PRODUCTS: dict[str, Case] = {
    "einsum": lambda y: torch.einsum("nchw,ncvw->nhv", y, y),
    "einsum_heads": lambda y: torch.einsum("bhid,bhjd->bhij", y, y),
    "tensordot": lambda y: torch.tensordot(y, y, ([2, 3], [2, 3])),
    "addbmm": lambda y: torch.addbmm(y[0, 0], y[0], y[0]),
    "baddbmm": lambda y: torch.baddbmm(y[0], y[0], y[0], beta=0.5, alpha=2),
    "cross": lambda y: torch.cross(y[:, :3], y[:, 3:6], dim=1),
    "inverse_2": lambda y: torch.inverse(y[..., :2, :2] + 3 * torch.eye(2)),
    "inverse_3": lambda y: torch.linalg.inv(y[..., :3, :3] + 3 * torch.eye(3)),
    "inverse_4": lambda y: (y[0, 0, :4, :4] + 4 * torch.eye(4)).inverse(),
    "inverse_and_error": lambda y: list(torch.linalg.inv_ex(y[..., :3, :3] + 3 * torch.eye(3))),
    "bits_and_constants": lambda y: [
        (y * 50).int() & 7,
        (y * 50).long() & -7,
        ((y * 50).int() | 21) ^ 170,
        ~(y * 50).long(),
        ~(y.abs() * 9).to(torch.uint8) & 0b1101,
        A.bitwise_and.Scalar_Tensor(5, y.argmax(1)),
        A.bitwise_or.Scalar_Tensor(5, y.argmax(1)),
        A.bitwise_xor.Scalar_Tensor(5, y.argmax(1)),
        (y.argmax(1)[..., None] & 2 ** torch.arange(4)) != 0,
        (y * 50).long() ^ torch.tensor([-8, -1, 0, 1, 6, 200]),
    ],
    "kron": lambda y: torch.kron(y[0, 0], y[0, 1]),
    "bilinear": lambda y: F.bilinear(y[0, 0], y[0, 1], torch.ones(4, 6, 6)),
    "systems": lambda y: (
        torch.linalg.solve(y[..., :3, :3] + 9 * torch.eye(3), y[..., :3, 3:])
        + torch.linalg.solve(POSES, y[..., 3:, :3], left=False)
    ),
    "triangular_below": lambda y: torch.linalg.solve_triangular(y + 4 * torch.eye(6), y.flip(1)[..., :2], upper=False),
    "triangular_above": lambda y: torch.linalg.solve_triangular(y - 4 * torch.eye(6), y[..., :5, :], upper=True, left=False),
    "triangular_of_ones": lambda y: torch.linalg.solve_triangular(y, y.flip(1), upper=False, unitriangular=True),
    "triangular_alone": lambda y: torch.linalg.solve_triangular(y[0, 0, :1, :1] + 9, y[..., :1, :], upper=True),
    "systems_of_vectors": lambda y: torch.linalg.solve(y[0, :, :3, :3] + 9 * torch.eye(3), y[0, :, :3, 3]),
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
    "grid_sample_of_volumes": lambda y: F.grid_sample(y.reshape(1, 4, 2, 6, 6), PLACES[:1], align_corners=False),
    "grid_sample_of_volumes_nearest": lambda y: F.grid_sample(
        y.reshape(2, 4, 3, 3, 4), PLACES, mode="nearest", padding_mode="border", align_corners=True
    ),
    "grid_sample_of_volumes_computed": lambda y: F.grid_sample(
        y.reshape(2, 4, 1, 6, 6), y.reshape(2, 4, 4, 3, 3).tanh(), padding_mode="reflection", align_corners=True
    ),
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

A = torch.ops.aten
ONES = torch.ones(8)
DIRECT: dict[str, Case] = {
    "unary": lambda y: [
        f(y)
        for f in (
            torch.atan,
            torch.ceil,
            torch.cos,
            torch.erf,
            torch.exp,
            torch.exp2,
            torch.round,
            torch.tan,
            torch.trunc,
            torch.frac,
            torch.sgn,
            torch.square,
            torch.positive,
            F.silu,
            F.mish,
            F.hardswish,
            F.hardsigmoid,
            F.gelu,
            F.elu,
            F.leaky_relu,
            F.softplus,
            F.hardtanh,
            torch.cosh,
            torch.asinh,
            torch.isinf,
        )
    ],
    "unary_of_positive": lambda y: [
        f(y.abs() + 1.1) for f in (torch.log2, torch.log10, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.acosh)
    ],
    "unary_of_small": lambda y: [f(y.tanh() * 0.9) for f in (torch.acos, torch.atanh)],
    "special": lambda y: [
        *(f(y) for f in (torch.signbit, torch.erfc, A.special_erfc, torch.special.erfcx)),
        *(f(y.abs() + 1.1) for f in (torch.lgamma, A.special_gammaln, torch.digamma, A.special_digamma, A.special_psi)),
        *(f(y.tanh() * 0.9) for f in (torch.erfinv, A.special_erfinv)),
        torch.special.ndtri(y.sigmoid()),
        torch.polygamma(1, y.abs() + 1.1),
        A.special_polygamma(2, y.abs() + 1.1),
        torch.copysign(y.exp(), y),
        A.copysign.Scalar(y, -2.0),
    ],
    "limits": lambda y: [
        y.clamp(ONES[0] * -1, ONES[0]),
        y.clamp_max(0.5),
        y.clamp_min(ONES[0]),
        y.clamp_max(ONES[0]),
        A.clip(y, -1.0),
    ],
    "binary": lambda y: [
        1 - y,
        A.rsub.Tensor(y, y * 2),
        A.sub.Scalar(y, 2),
        torch.div(y, 0.3, rounding_mode="trunc"),
        torch.fmod(y, y.flip(1)),
        torch.div(y, y.flip(1), rounding_mode="floor"),
        2.0**y,
        y.abs() ** y,
        torch.maximum(y, -y),
        torch.minimum(y, -y),
        torch.max(y, -y),
        torch.min(y, -y),
        torch.fmax(y, -y),
        torch.fmin(y, -y),
        torch.addcdiv(y, y, y.abs() + 1),
        torch.lerp(y, -y, y),
        A.div.Scalar_mode(y, 0.3, rounding_mode="floor"),
        A.multiply.Tensor(y, y),
        A.true_divide.Tensor(y, 2),
        A.div.Scalar(y, 2),
    ],
    "comparisons": lambda y: [
        y >= -y,
        y > -y,
        y <= -y,
        y < -y,
        y != 0,
        y != -y,
        torch.logical_not(y),
        torch.logical_or(y > 0, y < 1),
        torch.logical_xor(y > 0, y < 1),
        (y > 0) | (y < -1),
        ~(y > 0),
        torch.bitwise_and(y > 0, y < 1),
        torch.bitwise_or(y > 0, y < 1),
        torch.bitwise_xor(y > 0, y < 1),
        A.bitwise_and.Scalar(y > 0, True),
        A.bitwise_or.Scalar(y > 0, True),
        A.bitwise_xor.Scalar(y > 0, True),
        A.__and__.Tensor(y > 0, y < 1),
        A.__or__.Tensor(y > 0, y < 1),
    ],
    "choices": lambda y: [torch.where(y > 0, 1.0, 0.0), torch.where(y > 0, 1.0, y), y.masked_fill(y > 0, ONES[0])],
    "copies": lambda y: [
        y.detach(),
        A.alias(y),
        A.contiguous(y),
        y.type_as(y.double()),
        y.to(torch.float64),
        y.to(y),
        A.to.other(y, y.double()),
        A._to_copy(y, dtype=torch.float64),
        torch.resolve_conj(y),
        torch.resolve_neg(y),
        A.lift_fresh_copy(y),
    ],
    "factories": lambda y: [
        torch.zeros_like(y),
        torch.ones_like(y),
        torch.full_like(y, 3),
        y.new_zeros(2),
        y.new_ones(2),
        y.new_full((2,), 4.0),
        A.fill.Scalar(torch.empty_like(y), 0.5),  # memory nobody wrote may hold NaN, which no product with 0 removes
        A.fill.Scalar(y.new_empty(2), 0.5),
        A.fill.Scalar(y, 2.0),
        A.zero(y),
        A.copy(y, y * 2),
        A.fill.Scalar(A.new_empty_strided(y, [2], [1]), 0.5),
    ],
    "dropouts": lambda y: [
        F.dropout(y, 0.5, False),
        F.dropout2d(y, 0.5, False),
        F.alpha_dropout(y, 0.5, False),
        F.feature_alpha_dropout(y, 0.5, False),
    ],
    "reductions": lambda y: [
        y.amax(1),
        y.amin((1, 2)),
        y.max(),
        y.min(),
        y.max(1),
        y.min(1),
        y.mean(),
        y.sum(),
        y.prod(),
        y.argmin(1),
        y.argmax(),
        (y > 0).any(),
        (y > -9).all(1),
        A.any.dims(y > 2, [1, 2]),
        A.all.dims(y > -9, [1, 2]),
        (y > 0).count_nonzero((1, 2)),
        y.median(),
        y.sqrt().median(),
        y.sqrt().median(2),
        (y * 2).round().mode(1),
        (y > 0).mode(-1, keepdim=True).indices,
        (y.flatten(1) * 2).long().mode().values,
        y.nanmedian(1),
        y.sqrt().nanmedian(1),  # of NaN, where y is negative
        y.log().nanmedian(-1, keepdim=True).values,
        y.sqrt().nanmedian(),
        (y[0] * 0 / 0).nanmedian(1).values,
        y.sum().median(0),
        y.var(),
        y.var(1),
        y.std(),
        A.var.correction(y, [1], correction=0),
        A.std_mean.correction(y, [1], correction=1),
        A.std.correction(y, [1], correction=0),
        y.log_softmax(1),
        A._softmax(y, 1, False),
        A._log_softmax(y, 1, False),
        *([A._safe_softmax(y, 1)] if hasattr(A, "_safe_softmax") else []),  # torch 2.5 and later
        y.cummin(1),
        torch.msort(y),
        y.sort(stable=True, dim=1),
        y.argsort(stable=True, dim=1),
        A.norm.Scalar(y, 1),
        A.norm.ScalarOpt_dim_dtype(y, 2, [1], True, dtype=torch.float64),
        A.var.default(y),
        A.std.default(y, False),
        A.std.dim(y, [1], True),
    ],
    "layout": lambda y: [
        y.squeeze(),
        A.squeeze.dims(y, [0]),
        A.t(y[0, 0]),
        y.swapaxes(1, 2),
        y.swapdims(1, 2),
        y.mT,
        y[0, 0].T,
        A.numpy_T(y[0, 0]),
        A.adjoint(y),
        y.movedim((1, 2), (2, 1)),
        y.broadcast_to(2, 8, 6, 6),
        y.repeat(1, 2, 1, 1),
        y.tile(2, 1),
        y.ravel(),
        y.unflatten(1, (2, 4)),
        y.view_as(y.reshape(1, 8, 36)),
        y.reshape_as(y.reshape(8, 36)),
        torch.atleast_1d(y),
        torch.atleast_2d(y),
        torch.atleast_3d(y),
        A._reshape_alias(y, [8, 36], [36, 1]),
    ],
    "parts": lambda y: [
        *y.split(3, 1),
        *y.split([2, 6], 1),
        *y.chunk(3, 1),
        *y.unbind(1),
        *A.split_with_sizes(y, [1, 7], 1),
        *y.tensor_split(3, 1),
        *y.tensor_split([2, 5], 1),
        *A.split.sizes(y, [2, 6], 1),
        *A.unsafe_chunk(y, 2, 1),
        *A.unsafe_split(y, 4, 1),
        y.narrow(1, 2, 3),
        torch.fliplr(y),
        torch.flipud(y),
        torch.stack([y, y], 1),
        torch.concat([y, y], 1),
        torch.concatenate([y, y], 1),
        y.select(1, -1),
        A.native_channel_shuffle(y, 2),
        *torch.meshgrid(y[0, 0, 0], y[0, 0, 1], indexing="ij"),
        *A.meshgrid(list(y[0, 0, :2])),
    ],
    "scatters": lambda y: [
        y.slice_scatter(y[:, ::2] * 2, 1, 0, 8, 2),
        y.select_scatter(y[:, 0], 1, 3),
        y.index_fill(1, LONG, ONES[0]),
        A._unsafe_index(y, [None, LONG]),
        A._unsafe_index_put(y, [None, LONG], y[:, :3]),
        A.index_put(y, [None, LONG], y[:, :3]),
    ],
    "pads": lambda y: [
        A.constant_pad_nd(y, [1, 2], 3.0),
        A._pad_circular(y, [1, 1, 2, 2]),
        A.reflection_pad1d(y[0], [1, 1]),
        A.reflection_pad2d(y, [1, 1, 1, 1]),
        A.reflection_pad3d(y[None], [1, 1, 1, 1, 1, 1]),
        A.replication_pad1d(y[0], [1, 1]),
        A.replication_pad2d(y, [1, 1, 1, 1]),
        A.replication_pad3d(y[None], [1, 1, 1, 1, 1, 1]),
    ],
    "products": lambda y: [
        torch.outer(y[0, 0, 0], y[0, 0, 1]),
        torch.ger(y[0, 0, 0], y[0, 0, 1]),
        torch.dot(y[0, 0, 0], y[0, 0, 1]),
        torch.vdot(y[0, 0, 0], y[0, 0, 1]),
        torch.mv(y[0, 0], y[0, 0, 0]),
        torch.addmv(y[0, 0, 0], y[0, 0], y[0, 0, 1]),
        torch.addr(y[0, 0], y[0, 0, 0], y[0, 0, 1]),
        y @ y,
        A.mm(y[0, 0], y[0, 1]),
        A.bmm(y[0], y[0]),
        A.addmm(y[0, 0], y[0, 0], y[0, 1]),
        A._cdist_forward(y[0], y[0], 2.0, None),
        A.convolution(y, torch.ones(4, 8, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        F.conv1d(y.flatten(2), torch.ones(2, 8, 3), padding="same"),
        F.conv3d(y[None], torch.ones(2, 1, 3, 3, 3), padding="valid"),
    ],
    "recurrent": lambda y: [RNN_CELLS[0](y[0, 0]), RNN_CELLS[1](y[0, 0])],
    "pools": lambda y: [
        A.max_pool3d_with_indices(y[None], [2, 2, 2]),
        A.max_unpool3d(y[None], THIRD, [8, 12, 12], [1, 2, 2], [0, 0, 0]),
        A.adaptive_max_pool1d(y[0], [4]),
        A.adaptive_max_pool3d(y[None], [3, 4, 5]),
        A._adaptive_avg_pool2d(y, [4, 5]),
        A._adaptive_avg_pool3d(y[None], [3, 4, 5]),
    ],
    "resizes": lambda y: [
        A.upsample_bicubic2d(y, [4, 9], False),
        A.upsample_bilinear2d(y, [4, 9], False),
        A.upsample_linear1d(y[0], [9], False),
        A.upsample_trilinear3d(y[None], [4, 5, 9], True),
        A.upsample_nearest1d(y[0], [9]),
        A.upsample_nearest2d(y, [4, 9]),
        A.upsample_nearest3d(y[None], [4, 5, 9]),
        A._upsample_nearest_exact1d(y[0], [9]),
        A._upsample_nearest_exact2d(y, [4, 9]),
        A._upsample_nearest_exact3d(y[None], [4, 5, 9]),
        A._upsample_bilinear2d_aa(y, [4, 3], False),
        A._upsample_bicubic2d_aa(y, [4, 3], False),
    ],
    "resizes_by_factor": lambda y: [
        F.interpolate(y[0], scale_factor=1.5),
        F.interpolate(y, scale_factor=1.5),
        F.interpolate(y[0], scale_factor=1.5, mode="linear"),
        F.interpolate(y[0], scale_factor=1.5, mode="nearest-exact"),
        F.interpolate(y[None], scale_factor=1.5, mode="nearest-exact"),
    ],
    "norms": lambda y: [
        A.native_batch_norm(y, ONES, ONES, ONES, ONES * 2, False, 0.1, 1e-5)[0],
        A._native_batch_norm_legit_no_training(y, ONES, ONES, ONES, ONES * 2, 0.1, 1e-5)[0],
        A._native_batch_norm_legit.no_stats(y, ONES, ONES, True, 0.1, 1e-5)[0],
        A.native_group_norm(y, ONES, ONES, 1, 8, 36, 2, 1e-5)[0],
        A.renorm(y, 2, 1, 3.0),
        *([A._fused_rms_norm(y, [6], torch.ones(6), 1e-5)[0]] if hasattr(A, "_fused_rms_norm") else []),  # newer torch
    ],
    "bags": lambda y: [A._embedding_bag(y[0, 0], LONG, LONG[1:2])[0], A.embedding_bag(y[0, 0], LONG, LONG[1:2], False, 1)[0]],
    "truth_of_types": lambda y: [
        A.to.dtype_layout(y, dtype=torch.float64, layout=torch.strided),
        A.to.device(y, torch.device("cpu"), torch.float64),
    ],
}
THIRD = torch.arange(288).reshape(1, 1, 8, 6, 6) * 4
RNN_CELLS = [nn.RNNCell(6, 4).requires_grad_(False), nn.RNNCell(6, 4, nonlinearity="relu").requires_grad_(False)]

REFUSED: dict[str, tuple[Case, str]] = {
    "nonzero": (torch.nonzero, "the shape that aten.nonzero.default gives depends on the data"),
    "masked_select": (lambda y: y.masked_select(y > 0), "depends on the data"),
    "mask_index": (lambda y: y[y > 0], "keeps as many elements as the data decides"),
    "control_flow": (lambda y: y if y.sum() > 0 else -y, "depends on the data it gets"),
    "random": (lambda y: y + torch.rand_like(y), "draws random numbers"),
    "complex": (lambda y: torch.fft.rfft(y).abs(), "torch.complex64"),
    "inverse": (lambda y: torch.linalg.inv(y + 9 * torch.eye(6)), "no ONNX form of aten.linalg_inv.default of 6 rows is known"),
    "histogramdd": (lambda y: torch.histogramdd(y[0, 0, :, :2], [2, 2])[0], "cannot be written to ONNX"),
    "bits": (lambda y: y.argmax(1) & y.argmin(1), "works on their bits"),
}
