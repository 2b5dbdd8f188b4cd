"""QAT layers compute the float layer on fake-quantized weights, fused as their names say."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hqc import arithmetic
from hqc.errors import InputError, MarchError, QConfigError
from hqc.march import get_spec, set_march
from hqc.march import state as march_state
from hqc.nn import qat
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.mapping import LAYERS, qat_module
from hqc.quantization import (
    FakeQuantState,
    default_qat_8bit_lsq_quant_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    set_fake_quantize,
)

BAYES, BERNOULLI = get_spec("bayes"), get_spec("bernoulli")
QCONFIG = get_default_qat_qconfig()
ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "relu6": F.relu6}
PLAIN = [layer for layer in LAYERS if "Bn" not in layer.__name__]
KEPT = [layer for layer in LAYERS if "Bn" in layer.__name__]


def float_layer(cls: type[QATLayer], bias: bool = True, groups: int = 1) -> nn.Module:
    torch.manual_seed(0)
    if cls.float_class is nn.Linear:
        return nn.Linear(4, 6, bias=bias)
    if cls.float_class is nn.Conv1d:
        return nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=bias, groups=groups)
    return cls.float_class(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=bias, groups=groups)


def input_for(cls: type[QATLayer]) -> torch.Tensor:
    torch.manual_seed(1)
    sizes = {nn.Linear: (3, 4), nn.Conv1d: (3, 4, 9)}.get(cls.float_class, (3, 4, 9, 8))
    return torch.randn(sizes)


def quantized_weight(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """The weight on its int8 grid, from the definitions."""
    array = weight.detach().numpy()
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = arithmetic.weight_scale(array.min(others), array.max(others))
    return torch.from_numpy(arithmetic.dequantize(arithmetic.quantize(array, scale, axis=axis), scale, axis))


def on_grid(y: torch.Tensor) -> torch.Tensor:
    scale = arithmetic.scale_from_range(y.min().item(), y.max().item())
    return torch.from_numpy(arithmetic.dequantize(arithmetic.quantize(y.numpy(), scale), scale))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_layer_is_the_float_layer_on_quantized_weights(cls: type[QATLayer], bias: bool, groups: int) -> None:
    mod, x = float_layer(cls, bias, groups), input_for(cls)
    layer = cls.from_float(mod, QCONFIG, BAYES)
    plain = copy.deepcopy(mod)
    plain.weight.data = quantized_weight(mod.weight, cls.channel_axis)
    y = plain(x).detach()
    residual = torch.randn_like(y)
    expected = on_grid(ACTIVATIONS[cls.activation](y + residual if cls.residual else y))
    actual = layer(x, residual) if cls.residual else layer(x)
    assert torch.equal(actual, expected)
    actual.sum().backward()
    assert mod.weight.grad.abs().sum() > 0  # parameters are shared with the float module


def test_every_float_class_has_every_fusion_kept_or_folded() -> None:
    variants = {(cls.float_class.__name__, cls.activation, cls.residual, cls in KEPT) for cls in LAYERS}
    assert len(variants) == len(LAYERS)
    for name in ("Conv2d", "ConvTranspose2d", "Linear"):
        for activation in ACTIVATIONS:
            for residual in (False, True):
                assert (name, activation, residual, False) in variants
                assert (name, activation, residual, True) in variants or name == "Linear"
    assert {cls.__name__ for cls in LAYERS} <= set(qat.__all__)


def test_depthwise_and_padding_modes_follow_the_float_layer() -> None:
    for mod in (
        nn.Conv2d(4, 8, 3, groups=4, padding="same", padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, dilation=2, padding="valid"),
    ):
        x = torch.randn(1, 4, 9, 9)
        layer = qat.Conv2d.from_float(mod, QCONFIG, BAYES)
        set_fake_quantize(layer, FakeQuantState.CALIBRATION)
        assert torch.equal(layer(x), mod(x))


def test_high_precision_output_is_not_quantized() -> None:
    mod, x = float_layer(qat.Conv2d), input_for(qat.Conv2d)
    layer = qat.Conv2d.from_float(mod, get_default_qat_out_qconfig(), BAYES)
    assert layer.activation_post_process is None
    plain = copy.deepcopy(mod)
    plain.weight.data = quantized_weight(mod.weight, 0)
    assert torch.equal(layer(x), plain(x))
    assert "  (activation_post_process): None\n)" in repr(layer)


def test_prints_as_the_guide_does() -> None:
    text = repr(qat.Conv2d.from_float(nn.Conv2d(3, 3, 1), QCONFIG, BAYES))
    assert text.startswith(
        "Conv2d(\n  3, 3, kernel_size=(1, 1), stride=(1, 1)\n  (weight_fake_quant): FakeQuantize(\n    fake_quant_enabled="
    )
    assert "\n  (activation_post_process): FakeQuantize(\n" in text


def test_all_zero_channel_takes_the_layers_largest_scale() -> None:
    mod = nn.Conv2d(2, 3, 1)
    mod.weight.data[1] = 0
    layer = qat.Conv2d.from_float(mod, QCONFIG, BAYES)
    assert layer.weight_fake_quant.scale[1] == layer.weight_fake_quant.scale.max()
    assert torch.equal(layer.weight_fake_quant(mod.weight)[1], mod.weight[1])


def test_bernoulli_has_power_of_two_scales_floor_and_an_int8_bias() -> None:
    mod, x = float_layer(qat.Conv2d), input_for(qat.Conv2d)
    layer = qat.Conv2d.from_float(mod, QCONFIG, BERNOULLI)
    y = layer(x)
    for fake_quant in (layer.weight_fake_quant, layer.activation_post_process):
        assert torch.all(torch.log2(fake_quant.scale) % 1 == 0)
    bias = mod.bias.detach().numpy()
    bias_scale = arithmetic.bernoulli_bias_scale(bias)
    plain = copy.deepcopy(mod)
    plain.weight.data = layer.weight_fake_quant(mod.weight).detach()
    plain.bias.data = torch.from_numpy(arithmetic.dequantize(arithmetic.quantize(bias, bias_scale), bias_scale))
    scale = layer.activation_post_process.scale
    assert torch.equal(y, (plain(x) / scale).floor().clamp(-128, 127) * scale)


def test_autocast_trains_with_the_exact_grid() -> None:
    layer = qat.Conv2d.from_float(float_layer(qat.Conv2d), QCONFIG, BAYES)
    x = input_for(qat.Conv2d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    scale = layer.activation_post_process.scale
    assert y.dtype is torch.float32
    assert torch.equal(y, (y / scale).round() * scale)
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("qconfig", [QCONFIG, default_qat_8bit_lsq_quant_qconfig], ids=["fake_quant", "lsq"])
def test_layers_survive_deepcopy_pickle_and_state_dict(qconfig) -> None:
    layer = qat.ConvReLU2d.from_float(float_layer(qat.ConvReLU2d), qconfig, BAYES)
    x = input_for(qat.ConvReLU2d)
    layer(x)
    fresh = qat.ConvReLU2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), qconfig=qconfig, march=BAYES)
    fresh.load_state_dict(layer.state_dict())
    set_fake_quantize(layer, FakeQuantState.VALIDATION)
    for twin in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        set_fake_quantize(twin, FakeQuantState.VALIDATION)
        assert torch.equal(twin(x), layer(x))


def test_optimizer_trains_a_layer_towards_its_target() -> None:
    torch.manual_seed(0)
    target, layer = nn.Conv2d(3, 4, 3), qat.Conv2d(3, 4, 3, qconfig=QCONFIG, march=BAYES)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    x = torch.randn(16, 3, 8, 8)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(x) - target(x).detach()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50


@pytest.mark.parametrize("position", [0, 1])
def test_a_fused_add_stands_in_a_float_functionals_place(position: int) -> None:
    mod, x = float_layer(qat.ConvAdd2d), input_for(qat.ConvAdd2d)
    layer = qat.ConvAdd2d.from_float(mod, QCONFIG, BAYES)
    residual = torch.randn_like(mod(x))
    expected = layer(x, residual)
    set_fake_quantize(layer, FakeQuantState.VALIDATION)
    layer.conv_position = position
    assert torch.equal(layer.add(*((x, residual) if position == 0 else (residual, x))), expected)


# --- kept batch normalization ----------------------------------------------------------------------------------------------


def trained_bn(channels: int) -> nn.BatchNorm2d:
    torch.manual_seed(2)
    bn = nn.BatchNorm2d(channels)
    with torch.no_grad():
        bn.weight.uniform_(-1.5, 1.5)
        bn.bias.normal_()
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 3.0)
    return bn


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cls", KEPT, ids=lambda cls: cls.__name__)
def test_kept_bn_in_eval_is_the_folded_layer(cls: type[QATLayer], bias: bool, groups: int) -> None:
    mod, bn, x = float_layer(cls, bias, groups), trained_bn(6), input_for(cls)
    layer = cls.from_float(mod, QCONFIG, BAYES, bn=bn).eval()
    weight, folded_bias = layer.deployed_parameters()
    folded = copy.deepcopy(mod)
    folded.weight.data, folded.bias = weight.clone(), nn.Parameter(folded_bias.clone())
    # folding is right: the folded float layer is conv and bn
    torch.testing.assert_close(folded(x), bn.eval()(mod(x)), rtol=1e-4, atol=1e-5)
    without = next(base for base in LAYERS if base.__name__ == cls.__name__.replace("Bn", ""))
    twin = without.from_float(folded, QCONFIG, BAYES)
    residual = torch.randn_like(folded(x))
    arguments = (x, residual) if cls.residual else (x,)
    assert torch.equal(layer(*arguments), twin(*arguments))


@pytest.mark.parametrize("cls", [qat.ConvBn2d, qat.ConvTransposeBn2d], ids=lambda cls: cls.__name__)
def test_kept_bn_in_training_follows_the_batch(cls: type[QATLayer]) -> None:
    mod, x = float_layer(cls), input_for(cls)
    bn = trained_bn(6)
    reference = copy.deepcopy(bn).train()
    layer = cls.from_float(mod.train(), QCONFIG, BAYES, bn=bn)
    expected = reference(mod(x))
    set_fake_quantize(layer, FakeQuantState.CALIBRATION)  # unquantized it is conv and bn exactly
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bn.running_var, reference.running_var, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bn.running_mean, reference.running_mean, rtol=1e-4, atol=1e-5)
    set_fake_quantize(layer, FakeQuantState.QAT)
    y = layer(x)
    assert (y - expected).abs().max() < 12 * layer.activation_post_process.scale.item()
    y.square().sum().backward()
    assert bn.weight.grad.abs().sum() > 0
    assert mod.weight.grad.isfinite().all()


def test_kept_bn_survives_a_channel_that_gamma_switches_off() -> None:
    bn = trained_bn(6)
    bn.weight.data[2] = 0.0
    layer = qat.ConvBn2d.from_float(float_layer(qat.ConvBn2d), QCONFIG, BAYES, bn=bn).train()
    y = layer(input_for(qat.ConvBn2d))
    y.sum().backward()
    assert y.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_kept_bn_needs_a_matching_bn() -> None:
    mod = float_layer(qat.ConvBn2d)
    for parts in ({}, {"bn": nn.BatchNorm2d(5)}, {"bn": nn.BatchNorm2d(6, track_running_stats=False)}):
        with pytest.raises(InputError, match="BatchNorm2d of 6 channels"):
            qat.ConvBn2d.from_float(mod, QCONFIG, BAYES, **parts)


# --- building and refusing -------------------------------------------------------------------------------------------------


def test_mapping_builds_the_named_class_with_given_parameters() -> None:
    mod = nn.Conv2d(2, 3, 1)
    weight, bias = nn.Parameter(torch.randn(3, 2, 1, 1)), nn.Parameter(torch.tensor([1.0, 2, 3]), requires_grad=False)
    shared = QCONFIG.activation()
    layer = qat_module.build(
        mod,
        weight=weight,
        bias=bias,
        activation="relu6",
        residual=True,
        weight_fake_quant=QCONFIG.weight,
        activation_post_process=shared,
        march=BAYES,
    )
    assert type(layer) is qat.ConvAddReLU62d
    assert layer.activation_post_process is shared
    assert layer.weight is weight
    assert layer.bias is bias
    kept = qat_module.build(
        mod,
        weight=weight,
        bias=None,
        activation="none",
        residual=False,
        weight_fake_quant=QCONFIG.weight,
        activation_post_process=None,
        march=BAYES,
        batch_norm=nn.BatchNorm2d(3),
    )
    assert type(kept) is qat.ConvBn2d
    assert kept.bias is None


def test_mapping_accepts_exact_classes_only() -> None:
    class Mine(nn.Conv2d):
        pass

    assert qat_module.accepts(nn.Conv2d(1, 1, 1))
    assert not qat_module.accepts(Mine(1, 1, 1))
    assert qat_module.accepts(nn.Conv1d(1, 1, 1))
    assert not qat_module.accepts(nn.Conv3d(1, 1, 1))
    assert not qat_module.accepts(qat.Conv2d(1, 1, 1, qconfig=QCONFIG, march=BAYES))


def test_building_draws_no_random_numbers() -> None:
    mod = nn.Conv2d(2, 3, 1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    qat.Conv2d.from_float(mod, QCONFIG, BAYES)
    assert torch.equal(torch.rand(1), expected)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(InputError, match=r"Conv2d\.from_float needs a Conv2d, got Linear"):
        qat.Conv2d.from_float(nn.Linear(1, 1), QCONFIG, BAYES)
    with pytest.raises(QConfigError, match="Conv2d needs a qconfig"):
        qat.Conv2d.from_float(nn.Conv2d(1, 1, 1), None, BAYES)
    with pytest.raises(InputError, match="ConvAdd2d takes an input and a residual, got 1 tensors"):
        qat.ConvAdd2d(1, 1, 1, qconfig=QCONFIG, march=BAYES)(torch.ones(1, 1, 1, 1))
    with pytest.raises(InputError, match="Conv2d takes one input, got 2 tensors"):
        qat.Conv2d(1, 1, 1, qconfig=QCONFIG, march=BAYES)(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


def test_qconfig_and_march_may_come_from_the_module_and_set_march(monkeypatch: pytest.MonkeyPatch) -> None:
    mod = nn.Conv2d(1, 1, 1)
    mod.qconfig = QCONFIG
    monkeypatch.setattr(march_state, "_current", None)
    with pytest.raises(MarchError):
        qat.Conv2d.from_float(mod)
    set_march("bernoulli")
    assert qat.Conv2d.from_float(mod).activation_post_process.rounding == "floor"
