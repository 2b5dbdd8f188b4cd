"""What a lowered graph computes is what torch computes: modules, functions and methods one by one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import Function, Function2, check
from torch import nn

torch.manual_seed(0)
IMAGE = torch.randn(2, 8, 7, 6)
OTHER = torch.randn(2, 8, 7, 6)
ROW = torch.randn(3, 12)


def _initialized(module: nn.Module) -> nn.Module:
    """Random statistics and affine parameters, so that nothing is hidden by ones and zeros."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.uniform_(-1, 1)
    return module


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "conv": (lambda: nn.Conv2d(8, 4, 3, stride=2, padding=1), "conv2d"),
    "conv_grouped_dilated": (lambda: nn.Conv2d(8, 8, (3, 2), padding=(2, 1), dilation=(2, 1), groups=4, bias=False), "conv2d"),
    "conv_same": (lambda: nn.Conv2d(8, 4, (4, 3), padding="same"), "conv2d"),
    "conv_valid": (lambda: nn.Conv2d(8, 4, 3, padding="valid"), "conv2d"),
    "conv_reflect": (lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"), "pad conv2d"),
    "conv_replicate": (lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="replicate"), "pad conv2d"),
    "conv_circular": (lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), "slice slice cat slice slice cat conv2d"),
    "conv_transpose": (
        lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        "conv_transpose2d",
    ),
    "conv_of_volumes": (
        lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv3d(4, 6, (1, 3, 2), (1, 2, 1), (0, 1, 1), groups=2)),
        "reshape conv3d",
    ),
    "conv_of_volumes_same": (
        lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv3d(4, 6, 2, padding="same")),
        "reshape conv3d",
    ),
    "conv_of_volumes_reflect": (
        lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv3d(4, 6, 3, padding=1, padding_mode="replicate")),
        "reshape pad conv3d",
    ),
    "conv_transpose_of_volumes": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 2)), nn.ConvTranspose3d(4, 6, 3, (1, 2, 2), 1, (0, 1, 0), groups=2, dilation=(1, 1, 2))
        ),
        "reshape conv_transpose3d",
    ),
    "volume_without_batch": (lambda: nn.Conv3d(2, 4, (2, 3, 3)), "reshape conv3d reshape"),
    "linear": (lambda: nn.Linear(6, 5), "linear"),
    "batch_norm": (lambda: _initialized(nn.BatchNorm2d(8)), "batch_norm"),
    "batch_norm_without_statistics": (lambda: nn.BatchNorm2d(8, track_running_stats=False), "opaque"),
    "layer_norm": (lambda: _initialized(nn.LayerNorm((7, 6))), "layer_norm"),
    "layer_norm_plain": (lambda: nn.LayerNorm(6, elementwise_affine=False), "layer_norm"),
    "group_norm": (lambda: _initialized(nn.GroupNorm(4, 8)), "group_norm"),
    "instance_norm": (lambda: _initialized(nn.InstanceNorm2d(8, affine=True)), "instance_norm"),
    "instance_norm_running": (lambda: _initialized(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), "batch_norm"),
    "relu": (lambda: nn.ReLU(inplace=True), "relu"),
    "relu6": (nn.ReLU6, "clamp"),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.7), "clamp"),
    "hardswish": (nn.Hardswish, "hardswish"),
    "hardsigmoid": (nn.Hardsigmoid, "hardsigmoid"),
    "silu": (nn.SiLU, "silu"),
    "sigmoid": (nn.Sigmoid, "sigmoid"),
    "tanh": (nn.Tanh, "tanh"),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), "leaky_relu"),
    "prelu": (lambda: _initialized(nn.PReLU(8)), "prelu"),
    "prelu_single": (nn.PReLU, "prelu"),
    "selu": (nn.SELU, "selu"),
    "elu": (lambda: nn.ELU(0.5), "elu"),
    "gelu": (nn.GELU, "gelu"),
    "gelu_tanh": (lambda: nn.GELU("tanh"), "gelu"),
    "mish": (nn.Mish, "mish"),
    "softplus": (lambda: nn.Softplus(2.0), "softplus"),
    "softsign": (nn.Softsign, "softsign"),
    "max_pool": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), "max_pool2d"),
    "max_pool_dilated": (lambda: nn.MaxPool2d(2, 1, dilation=2), "max_pool2d"),
    "avg_pool": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), "avg_pool2d"),
    "avg_pool_divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), "opaque"),
    "adaptive_avg_pool": (lambda: nn.AdaptiveAvgPool2d((1, 1)), "adaptive_avg_pool2d"),
    "adaptive_avg_pool_uneven": (lambda: nn.AdaptiveAvgPool2d((3, None)), "adaptive_avg_pool2d"),
    "adaptive_max_pool": (lambda: nn.AdaptiveMaxPool2d(2), "adaptive_max_pool2d"),
    "upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), "resize2d"),
    "upsample_size": (lambda: nn.Upsample(size=(9, 12), mode="nearest"), "resize2d"),
    "zero_pad": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), "pad"),
    "constant_pad": (lambda: nn.ConstantPad2d(1, 2.5), "pad"),
    "reflection_pad": (lambda: nn.ReflectionPad2d((1, 2, 2, 1)), "pad"),
    "replication_pad": (lambda: nn.ReplicationPad2d(2), "pad"),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), "pixel_shuffle"),
    "channel_shuffle": (lambda: nn.ChannelShuffle(4), "reshape transpose reshape"),
    "flatten": (nn.Flatten, "reshape"),
    "unflatten": (lambda: nn.Unflatten(1, (2, 4)), "reshape"),
    "softmax": (lambda: nn.Softmax(dim=-1), "softmax"),
    "softmax2d": (nn.Softmax2d, "softmax"),
    "log_softmax": (lambda: nn.LogSoftmax(dim=1), "log_softmax"),
    "dropout": (lambda: nn.Dropout(0.3), "dropout"),
    "dropout2d": (nn.Dropout2d, "dropout"),
    "identity": (nn.Identity, "identity"),
    "glu": (nn.GLU, "split sigmoid mul"),
    "local_response_norm": (lambda: nn.LocalResponseNorm(2), "opaque"),
}


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    make, ops = MODULES[name]
    lowered = check(nn.Sequential(make()), IMAGE)
    assert " ".join(node.op.name for node in lowered.graph.nodes) == ops


FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "relu": (lambda x: F.relu(x), "relu"),
    "relu_method": (lambda x: x.relu(), "relu"),
    "relu_in_place": (lambda x: x.clone().relu_() + 1, "identity relu add"),
    "relu6": (lambda x: F.relu6(x), "clamp"),
    "hardtanh": (lambda x: F.hardtanh(x, -0.2, 0.4), "clamp"),
    "clamp": (lambda x: torch.clamp(x, -0.5, 0.5), "clamp"),
    "clamp_low": (lambda x: x.clamp(min=0.1), "clamp"),
    "clamp_min": (lambda x: x.clamp_min(0.1), "clamp"),
    "clamp_tensor": (lambda x: torch.clamp(x, torch.tensor([0.1] * 6), torch.tensor([0.2] * 6)), "maximum minimum"),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), "leaky_relu"),
    "elu": (lambda x: F.elu(x, 0.7), "elu"),
    "selu": (lambda x: F.selu(x), "selu"),
    "gelu": (lambda x: F.gelu(x), "gelu"),
    "silu": (lambda x: F.silu(x), "silu"),
    "hardswish": (lambda x: F.hardswish(x), "hardswish"),
    "hardsigmoid": (lambda x: F.hardsigmoid(x), "hardsigmoid"),
    "mish": (lambda x: F.mish(x), "mish"),
    "softplus": (lambda x: F.softplus(x), "softplus"),
    "sigmoid": (lambda x: torch.sigmoid(x) + x.sigmoid(), "sigmoid sigmoid add"),
    "tanh": (lambda x: torch.tanh(x), "tanh"),
    "exp": (lambda x: x.exp(), "exp"),
    "log": (lambda x: torch.log(x.abs() + 1), "abs add log"),
    "sqrt": (lambda x: torch.sqrt(x.abs()), "abs sqrt"),
    "rsqrt": (lambda x: torch.rsqrt(x.abs() + 1), "abs add rsqrt"),
    "reciprocal": (lambda x: torch.reciprocal(x.abs() + 1), "abs add reciprocal"),
    "sin_cos": (lambda x: torch.sin(x) * x.cos(), "sin cos mul"),
    "tan_atan": (lambda x: torch.tan(x * 0.1) + x.atan(), "mul tan atan add"),
    "neg": (lambda x: -x, "neg"),
    "floor_ceil_round": (lambda x: torch.floor(x) + x.ceil() + torch.round(x), "floor ceil add round add"),
    "sign_erf": (lambda x: torch.sign(x) + torch.erf(x), "sign erf add"),
    "square": (lambda x: x**2 + torch.square(x) + x.pow(2), "pow_scalar mul add pow_scalar add"),
    "scalar_power": (lambda x: 2.0**x, "pow"),
    "add_scalar": (lambda x: x + 3, "add"),
    "radd_scalar": (lambda x: 3 + x, "add"),
    "add_alpha": (lambda x: torch.add(x, x, alpha=2), "mul add"),
    "sum_of_list": (lambda x: sum([x, x, x]), "identity add add"),
    "rsub": (lambda x: 1.0 - x, "sub"),
    "rsub_function": (lambda x: torch.rsub(x, 2.0), "sub"),
    "mul_scalar": (lambda x: x * 0.5, "mul"),
    "div_scalar": (lambda x: x / 3, "div"),
    "rdiv": (lambda x: 1 / (x.abs() + 1), "abs add reciprocal"),
    "floor_div": (lambda x: x // 0.3, "div floor"),
    "in_place_add": (lambda x: operator.iadd(x.clone(), 1), "identity add"),
    "comparisons": (lambda x: ((x > 0), (x <= 0.5), (x == 0), (x != 0)), "greater less_equal equal equal logical_not"),
    "logic": (lambda x: (x > 0) & (x < 1) | ~(x > 2), "greater less logical_and greater logical_not logical_or"),
    "where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), "greater where"),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1.0), "greater where"),
    "maximum": (lambda x: torch.maximum(x, torch.tensor(0.3)), "maximum"),
    "max_of_two": (lambda x: torch.max(x, -x), "neg maximum"),
    "matmul": (lambda x: x @ x.transpose(-1, -2), "transpose matmul"),
    "matmul_constant": (lambda x: torch.matmul(x, torch.ones(6, 3)), "matmul"),
    "flatten": (lambda x: torch.flatten(x, 1), "reshape"),
    "flatten_middle": (lambda x: x.flatten(1, 2), "reshape"),
    "view": (lambda x: x.view(x.size(0), -1), "reshape"),
    "view_shape": (lambda x: x.view(*x.shape[:2], -1).mean(-1), "reshape mean"),
    "reshape_tuple": (lambda x: torch.reshape(x, (2, 2, 4, 42)), "reshape"),
    "permute": (lambda x: x.permute(0, 2, 3, 1).contiguous(), "transpose identity"),
    "transpose": (lambda x: x.transpose(1, -1), "transpose"),
    "movedim": (lambda x: torch.movedim(x, 1, -1), "transpose"),
    "squeeze": (lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), "mean reshape reshape"),
    "unsqueeze": (lambda x: x.unsqueeze(1), "reshape"),
    "expand": (lambda x: x[:, :1].expand(-1, 8, -1, -1), "slice expand"),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), "tile"),
    "repeat_rank": (lambda x: x.repeat(2, 1, 1, 1, 1), "reshape tile"),
    "cat": (lambda x: torch.cat([x, x * 2], dim=1), "mul cat"),
    "cat_constant": (lambda x: torch.cat((x, torch.ones(2, 1, 7, 6)), 1), "cat"),
    "stack": (lambda x: torch.stack([x, x], dim=1), "reshape reshape cat"),
    "chunk": (lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), "split cat"),
    "chunk_unpack": (lambda x: operator.mul(*[x.chunk(2, dim=1)[i] for i in range(2)]), "split split mul"),
    "split": (lambda x: x.split([1, 3, 4], dim=1)[1], "split"),
    "split_int": (lambda x: x.split(3, dim=1)[2], "split"),
    "tensor_split": (lambda x: torch.tensor_split(x, 3, dim=2)[0], "split"),
    "unbind": (lambda x: x.unbind(3)[1], "split" + " reshape" * 6),
    "getitem": (lambda x: x[:, 1:5:2, ..., -1], "slice reshape"),
    "getitem_none": (lambda x: x[:, None, 0], "slice reshape"),
    "getitem_last": (lambda x: x[..., -2:], "slice"),
    "getitem_list": (lambda x: x[:, [2, 0, 1]], "gather"),
    "select": (lambda x: x.select(1, -1), "slice reshape"),
    "narrow": (lambda x: x.narrow(1, 2, 3), "slice"),
    "index_select": (lambda x: torch.index_select(x, 1, torch.tensor([3, 1])), "gather"),
    "flip": (lambda x: x.flip(2, 3), "gather gather"),
    "roll": (lambda x: torch.roll(x, (1, -2), (2, 3)), "split cat split cat"),
    "mean": (lambda x: x.mean(dim=[2, 3]), "mean"),
    "mean_all": (lambda x: x.mean(), "mean"),
    "sum": (lambda x: torch.sum(x, 1, keepdim=True), "sum"),
    "sum_bool": (lambda x: (x > 0).sum(1), "greater cast sum"),
    "amax": (lambda x: x.amax(1) + torch.amin(x, 1), "reduce_max reduce_min add"),
    "max_dim": (lambda x: torch.max(x, 1), "reduce_max argmax"),
    "max_values": (lambda x: x.max(dim=1, keepdim=True).values, "reduce_max"),
    "max_all": (lambda x: x.max() - x.min(), "reduce_max reduce_min sub"),
    "argmax": (lambda x: x.argmax(1), "argmax"),
    "argmax_all": (lambda x: torch.argmax(x), "reshape argmax"),
    "argmin": (lambda x: x.argmin(dim=-1, keepdim=True) >= 2, "argmin greater_equal"),
    "softmax": (lambda x: F.softmax(x, dim=1), "softmax"),
    "softmax_method": (lambda x: x.softmax(-1), "softmax"),
    "log_softmax": (lambda x: F.log_softmax(x, -1), "log_softmax"),
    "normalize": (lambda x: F.normalize(x), "lp_normalize"),
    "normalize_by_magnitudes": (lambda x: F.normalize(x, 1, (2, 3), 1e-3), "lp_normalize"),
    "normalize_by_cubes": (lambda x: F.normalize(x, 3), "opaque"),
    "norm": (lambda x: x.norm(dim=1) + torch.norm(x, 1, dim=(1,)), "reduce_l2 reduce_l1 add"),
    "norm_of_all": (lambda x: torch.norm(x) + torch.linalg.vector_norm(x), "reduce_l2 reduce_l2 add"),
    "norm_of_largest": (lambda x: x.norm(float("inf"), 1), "opaque"),
    "logsumexp": (lambda x: x.logsumexp(1) + torch.logsumexp(x, (1,)), "reduce_log_sum_exp reduce_log_sum_exp add"),
    "var": (lambda x: x.var(1), "mean sub mul mean mul"),
    "var_of_all": (lambda x: x.var(False), "mean sub mul mean"),
    "var_kept": (lambda x: torch.var(x, (2, 3), keepdim=True, correction=2), "mean sub mul mean mul"),
    "std": (lambda x: x.std(-1, unbiased=False, keepdim=True), "mean sub mul mean sqrt"),
    "max_pool": (lambda x: F.max_pool2d(x, 2), "max_pool2d"),
    "avg_pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), "avg_pool2d"),
    "adaptive_avg_pool": (lambda x: F.adaptive_avg_pool2d(x, 1), "adaptive_avg_pool2d"),
    "adaptive_max_pool": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), "adaptive_max_pool2d"),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True), "resize2d"),
    "interpolate_size": (lambda x: F.interpolate(x[:, :, :3, :3], size=x.shape[2:]), "slice resize2d"),
    "interpolate_recomputed": (lambda x: F.interpolate(x, scale_factor=1.5, recompute_scale_factor=True), "resize2d"),
    "interpolate_area": (lambda x: F.interpolate(x, scale_factor=2, mode="area"), "adaptive_avg_pool2d"),
    "grid_sample": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
        "slice transpose grid_sample",
    ),
    "grid_sampler": (lambda x: torch.grid_sampler(x, x[:, :2].permute(0, 2, 3, 1), 0, 1, True), "slice transpose grid_sample"),
    "grid_sample_bicubic": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), "bicubic", "reflection", False),
        "slice transpose grid_sample",
    ),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=1.5), "pad"),
    "pad_reflect": (lambda x: F.pad(x, (1, 2, 0, 3), mode="reflect"), "pad"),
    "pad_circular": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), "slice slice cat slice slice cat"),
    "conv": (lambda x: F.conv2d(x, torch.ones(3, 8, 2, 2), padding=1), "conv2d"),
    "linear": (lambda x: F.linear(x, torch.ones(4, 6), torch.arange(4.0)), "linear"),
    "batch_norm": (lambda x: F.batch_norm(x, torch.arange(8.0), torch.arange(1.0, 9.0)), "batch_norm"),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), "layer_norm"),
    "group_norm": (lambda x: F.group_norm(x, 2), "group_norm"),
    "instance_norm": (lambda x: F.instance_norm(x), "instance_norm"),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x[:, :, :6], 2), "slice pixel_unshuffle"),
    "dropout": (lambda x: F.dropout(x, 0.4, training=False), "dropout"),
    "casts": (lambda x: (x.float().double(), x.to(torch.int64), (x > 0).type_as(x)), "identity cast cast greater cast"),
    "promotion": (lambda x: x + (x > 0).long(), "greater cast cast add"),
    "integer_division": (lambda x: x.argmax(1) / 2, "argmax cast div"),
    "shape_arithmetic": (lambda x: x.view(x.shape[0], x.shape[1] // 2, 2, -1).transpose(1, 2), "reshape transpose"),
    "constant_grid": (lambda x: x + torch.arange(x.shape[3]).view(1, 1, 1, -1), "add"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x * 0.5, x), "mul transpose matmul mul softmax matmul"),
    "cumsum": (lambda x: x.cumsum(1), "opaque"),
    "topk": (lambda x: torch.topk(x, 2, dim=1), "opaque"),
    "einsum": (lambda x: torch.einsum("nchw,ncvw->nhv", x, x), "transpose reshape transpose reshape matmul"),
    "set_item": (lambda x: _with_item(x.clone()), "identity opaque"),
    "list_and_dict": (lambda x: {"a": [x + 1, x * 2], "b": (x,)}, "add mul"),
    "nothing_but_input_sizes": (lambda x: (x * 2, x.shape[1], None), "mul"),
}


def _with_item(x: torch.Tensor) -> torch.Tensor:
    x[:, 1:3] = 0.5
    return x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function, ops = FUNCTIONS[name]
    lowered = check(Function(function), IMAGE)
    assert " ".join(node.op.name for node in lowered.graph.nodes) == ops


BINARY: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "add": (operator.add, "add"),
    "sub": (torch.sub, "sub"),
    "mul": (torch.mul, "mul"),
    "div": (lambda x, y: x / (y.abs() + 1), "abs add div"),
    "minimum": (torch.minimum, "minimum"),
    "in_place": (lambda x, y: (x + 1).add_(y).mul_(y), "add add mul"),
    "addmm": (lambda x, y: torch.addmm(torch.ones(4), x[0, 0], torch.ones(6, 4)) + 0 * y[0, 0, :, :4], ""),
    "bmm": (lambda x, y: torch.bmm(x[:, 0], y[:, 0].mT), ""),
    "where": (lambda x, y: torch.where(x > y, x, y), "greater where"),
    "expand_as": (lambda x, y: x[:, :1].expand_as(y), "slice expand"),
    "embedding": (lambda x, y: F.embedding(x.argmax(1), torch.arange(16.0).view(8, 2)) + 0 * y.sum(), ""),
}


@pytest.mark.parametrize("name", BINARY)
def test_function_of_two(name: str) -> None:
    function, ops = BINARY[name]
    lowered = check(Function2(function), IMAGE, OTHER)
    if ops:
        assert " ".join(node.op.name for node in lowered.graph.nodes) == ops


def test_recurrent_module_is_one_opaque_node_with_its_results() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(12, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out, (h, c) = self.lstm(x)
            return self.head(out) + h.sum() + c.sum()

    lowered = check(Model(), torch.randn(2, 4, 12))
    assert next(iter(lowered.graph.nodes)).op.name == "opaque"
    assert len(next(iter(lowered.graph.nodes)).results) == 3
