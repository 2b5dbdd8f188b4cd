"""The wider surface: one line a spelling, compared with torch; and spellings of one thing that give one graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import Function, check
from torch import nn

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
torch.manual_seed(1)
IMAGE = torch.randn(2, 8, 7, 6)
ROW = torch.randn(2, 4, 12)
WEIGHT = torch.randn(5, 6)

FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "hyperbolic": (lambda x: x.sinh() + torch.cosh(x), "sinh cosh add"),
    "inverse": (lambda x: torch.asin(x.tanh()) + x.tanh().acos(), "tanh asin tanh acos add"),
    "inverse_hyperbolic": (
        lambda x: x.asinh() + torch.acosh(x.abs() + 1) + torch.arctanh(x.tanh() * 0.5),
        "asinh abs add acosh add tanh mul atanh add",
    ),
    "powers": (lambda x: torch.exp2(x) + x.expm1(), "exp2 expm1 add"),
    "logarithms": (
        lambda x: x.abs().log1p() + torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1),
        "abs log1p abs add log2 add abs add log10 add",
    ),
    "log_sigmoid": (lambda x: F.logsigmoid(x), "log_sigmoid"),
    "celu": (lambda x: F.celu(x, 0.7), "celu"),
    "shrink": (
        lambda x: F.hardshrink(x, 0.3) + F.softshrink(x, 0.2) + F.tanhshrink(x),
        "hardshrink softshrink add tanhshrink add",
    ),
    "threshold": (lambda x: F.threshold(x, 0.1, -2.0), "threshold"),
    "trunc": (lambda x: torch.trunc(x * 3) + torch.frac(x), "mul trunc trunc sub add"),
    "round_decimals": (lambda x: torch.round(x, decimals=1), "mul round div"),
    "whole_numbers_stay": (lambda x: x.argmax(1).floor() + torch.round(x.argmin(1)), "argmax identity argmin identity add"),
    "float_exponent": (lambda x: x.argmax(1) ** 0.5, "argmax cast pow_scalar"),
    "glu": (lambda x: F.glu(x, 1), "split sigmoid mul"),
    "softmin": (lambda x: F.softmin(x, dim=1), "neg softmax"),
    "softmax_dtype": (lambda x: x.softmax(1, dtype=torch.float64), "cast softmax"),
    "sum_dtype": (lambda x: x.sum((2, 3), dtype=torch.float64), "cast sum"),
    "any_all": (
        lambda x: (torch.any(x > 1, dim=1), (x > -9).all()),
        "greater cast reduce_max cast greater cast reduce_min cast",
    ),
    "count_nonzero": (lambda x: torch.count_nonzero(x > 0, dim=1), "greater cast sum"),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.25), "mul sub mul add"),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), "mul mul add"),
    "logic_of_numbers": (lambda x: torch.logical_and(x, x.round()), "round cast cast logical_and"),
    "xor": (lambda x: (x > 0) ^ (x < 1), "greater less equal logical_not"),
    "hstack": (lambda x: torch.hstack([x, x]), "cat"),
    "vstack": (lambda x: torch.vstack([x, x]), "cat"),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), "gather"),
    "repeat_interleave_each": (lambda x: torch.repeat_interleave(x[:, :3], torch.tensor([1, 0, 2]), 1), "slice gather"),
    "rot90": (lambda x: torch.rot90(x, 1, (2, 3)) + torch.rot90(x, -3, (2, 3)), "gather transpose gather transpose add"),
    "rot90_back": (lambda x: torch.rot90(x, 3, (3, 1)), "transpose gather"),
    "roll_all": (lambda x: x.roll(3), "reshape split cat reshape"),
    "tril": (lambda x: torch.tril(x, -1) + x.triu(1), "where where add"),
    "diagonal": (lambda x: torch.diagonal(x, 1, 2, 3), "transpose reshape gather"),
    "windows": (lambda x: x.unfold(2, 3, 2), "gather transpose"),
    "im2col": (lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2), "pad gather gather transpose reshape"),
    "one_hot": (lambda x: F.one_hot(x.argmax(1), 9), "argmax reshape equal cast"),
    "meshgrid": (
        lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="xy")[0],
        "slice reshape slice reshape reshape expand reshape expand",
    ),
    "two_index_tensors": (lambda x: x[:, [0, 1, 5], [2, -1, 0]], "reshape gather"),
    "mask": (lambda x: x[:, torch.arange(8) % 2 == 0], "gather"),
    "mask_of_planes": (lambda x: x[..., torch.eye(7, 6) > 0], "reshape gather"),
    "slice_and_indices": (lambda x: x[:, 2:5, [0, 3]], "slice gather"),
    "matrix_times_vector": (lambda x: WEIGHT @ x[0, 0, 0], "slice reshape linear"),
    "vector_times_matrix": (lambda x: x[0, 0, 0] @ WEIGHT.T, "slice reshape reshape matmul reshape"),
    "mv": (lambda x: torch.mv(x[0, 0], x[1, 0, 0]), "slice reshape slice reshape reshape matmul reshape"),
    "dot": (lambda x: torch.dot(x[0, 0, 0], x[1, 1, 1]), "slice reshape slice reshape reshape reshape matmul reshape"),
    "outer": (lambda x: torch.outer(x[0, 0, 0], x[0, 0, :, 0]), "slice reshape slice reshape reshape mul"),
    "addmm_scaled": (
        lambda x: torch.addmm(x[0, 0], x[0, 1], torch.ones(6, 6), beta=0.5, alpha=2),
        "slice reshape slice reshape matmul mul mul add",
    ),
    "baddbmm": (
        lambda x: torch.baddbmm(x[0, :, :7, :1], x[0], x[1, :, :6, :1], beta=0, alpha=3),
        "slice reshape slice reshape slice reshape matmul mul identity",
    ),
    "inner": (lambda x: torch.inner(x[0, 0], x[1, 1]), "slice reshape slice reshape transpose matmul"),
    "tensordot": (lambda x: torch.tensordot(x, WEIGHT, dims=([3], [1])), "transpose matmul"),
    "einsum_three": (lambda x: torch.einsum("nchw,oc,w->noh", x, torch.ones(3, 8), torch.arange(6.0)), ""),
    "einsum_dots": (lambda x: torch.einsum("...hw,vw->...hv", x, WEIGHT), "transpose matmul"),
    "einsum_trace_free": (lambda x: torch.einsum("nchw->wn", x), "sum transpose"),
    "causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "transpose matmul mul where softmax matmul"),
    "boolean_mask": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x @ x.mT > -9),
        "transpose matmul greater transpose matmul mul where softmax matmul",
    ),
    "infinite_mask": (
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.full((7, 7), -math.inf).triu(1)),
        "transpose matmul mul where softmax matmul",
    ),
    "grouped_queries": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
        "slice slice gather gather transpose matmul mul softmax matmul",
    ),
    "unbatched_pool": (lambda x: F.max_pool2d(x[0], 2), "slice reshape reshape max_pool2d reshape"),
    "unbatched_conv": (lambda x: F.conv2d(x[0], torch.ones(3, 8, 2, 2)), "slice reshape reshape conv2d reshape"),
    "pool_with_indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), "opaque"),
    "pad_crop_replicate": (lambda x: F.pad(x, (-1, 2, 0, 1), mode="replicate"), "slice pad"),
}
"""Of an image batch `[2,8,7,6]`."""

ROWS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), "reshape max_pool2d reshape"),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False), "reshape avg_pool2d reshape"),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 5), "reshape adaptive_avg_pool2d reshape"),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 1), "reshape adaptive_max_pool2d reshape"),
    "linear_interpolation": (lambda x: F.interpolate(x, 17, mode="linear", align_corners=True), "reshape resize2d reshape"),
    "nearest_of_rows": (lambda x: F.interpolate(x, scale_factor=2.0), "reshape resize2d reshape"),
    "instance_norm": (lambda x: F.instance_norm(x), "instance_norm"),
    "scalar": (lambda x: torch.softmax(x.mean(), 0) + x.sum().sum(0), "mean reshape softmax reshape sum sum add"),
}
"""Of rows `[2,4,12]`."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    if name == "grouped_queries" and TORCH < (2, 5):
        pytest.skip("this torch has no enable_gqa")
    _compare(*FUNCTIONS[name], IMAGE)


@pytest.mark.parametrize("name", ROWS)
def test_function_of_rows(name: str) -> None:
    _compare(*ROWS[name], ROW)


def _compare(function: Callable[..., Any], ops: str, x: torch.Tensor) -> None:
    lowered = check(Function(function), x)
    if ops:
        assert " ".join(node.op.name for node in lowered.graph.nodes) == ops


EQUAL: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[torch.Tensor], Any]]] = {
    "einsum_is_matmul": (lambda x: torch.einsum("nchw,ncwv->nchv", x, x.mT), lambda x: x @ x.mT),
    "hstack_is_cat": (lambda x: torch.hstack((x, x)), lambda x: torch.cat((x, x), 1)),
    "mean_keepdim": (lambda x: x.mean((3, 2), True), lambda x: torch.mean(x, dim=(-2, -1), keepdim=True)),
    "operator_and_method": (lambda x: (x - 1) * x, lambda x: x.sub(1).mul(x)),
    "matmul_forms": (lambda x: torch.matmul(x, x.mT), lambda x: x.matmul(x.transpose(-2, -1))),
    "area_is_adaptive": (lambda x: F.interpolate(x, (2, 3), mode="area"), lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_spellings_give_equal_graphs(name: str) -> None:
    one, other = (check(Function(function), IMAGE).graph for function in EQUAL[name])
    assert [(node.op.name, node.attributes) for node in one.nodes] == [(node.op.name, node.attributes) for node in other.nodes]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Sequential(
        nn.Conv1d(4, 6, 3, 2, 1, padding_mode="circular"), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)
    ),
    "conv1d_same": lambda: nn.Conv1d(4, 4, 4, padding="same", dilation=2, groups=2, bias=False),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1, dilation=2),
    "pads": lambda: nn.Sequential(
        nn.ReflectionPad1d((1, 2)), nn.ReplicationPad1d(1), nn.CircularPad1d((0, 3)), nn.ZeroPad1d(1)
    ),
    "recurrent": lambda: nn.Sequential(nn.GRU(12, 5, batch_first=True, bidirectional=True)),
    "instance_norm_unbatched": lambda: nn.InstanceNorm2d(2, affine=True),
    "unfold": lambda: nn.Sequential(nn.Unflatten(2, (3, 4)), nn.Unfold(2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_of_rows(name: str) -> None:
    torch.manual_seed(0)
    check(nn.Sequential(MODULES[name]()), ROW)


class WithOutputSize(nn.Module):
    """A decoder's step."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 3, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x, output_size=[14, 11])


def test_output_size_of_a_transposed_convolution() -> None:
    (node,) = check(WithOutputSize(), IMAGE).graph.nodes
    assert node.attributes["output_padding"] == (1, 0)
