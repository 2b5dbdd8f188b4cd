"""QConfig factories and constants; which qconfig is in force where; refusals with near names."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple

import pytest
import torch
from torch import nn

from hqc import quantization
from hqc.errors import QConfigError
from hqc.quantization import (
    CalibFakeQuantize,
    CalibObserver,
    FakeQuantize,
    KLObserver,
    LearnedScaleFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    NoopObserver,
    PercentileObserver,
    QConfig,
    default_calib_8bit_fake_quant_qconfig,
    default_qat_8bit_fake_quant_qconfig,
    default_qat_8bit_lsq_quant_qconfig,
    default_qat_out_8bit_fake_quant_qconfig,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
)
from hqc.quantization.qconfig_dict import QConfigResolver

G, T, N, M = (QConfig(name, name) for name in ("global", "type", "name", "module"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.conv10 = nn.Conv2d(3, 3, 1)
        self.block = nn.Sequential(Block(), Block())


# --- factories -----------------------------------------------------------------------------------------------------------


def test_qat_qconfig_is_what_the_guide_prints() -> None:
    activation, weight = get_default_qat_qconfig().activation(), get_default_qat_qconfig().weight()
    assert type(activation) is type(weight) is FakeQuantize
    assert type(activation.activation_post_process) is MovingAverageMinMaxObserver
    assert type(weight.activation_post_process) is MovingAveragePerChannelMinMaxObserver
    assert activation.activation_post_process.averaging_constant == 0.01
    assert weight.activation_post_process.averaging_constant == 1.0
    assert (activation.ch_axis, activation.qscheme) == (-1, torch.per_tensor_symmetric)
    assert (weight.ch_axis, weight.qscheme) == (0, torch.per_channel_symmetric)
    assert default_qat_8bit_fake_quant_qconfig == get_default_qat_qconfig()


def test_out_qconfig_has_no_activation() -> None:
    assert get_default_qat_out_qconfig().activation is None
    assert get_default_qat_out_qconfig().weight == get_default_qat_qconfig().weight
    assert default_qat_out_8bit_fake_quant_qconfig == get_default_qat_out_qconfig()


def test_calib_qconfig_observes_activations_only() -> None:
    activation, weight = get_default_calib_qconfig().activation(), get_default_calib_qconfig().weight()
    assert type(activation) is type(weight) is CalibFakeQuantize
    assert type(activation.activation_post_process) is CalibObserver
    assert type(weight.activation_post_process) is NoopObserver
    switchable = default_calib_8bit_fake_quant_qconfig.activation()
    assert type(switchable) is FakeQuantize and type(switchable.activation_post_process) is PercentileObserver
    kl = get_default_calib_qconfig(calib_qkwargs={"observer": KLObserver, "bins": 256}).activation()
    assert kl.activation_post_process.bins == 256


def test_lsq_constant_learns_scales() -> None:
    assert isinstance(default_qat_8bit_lsq_quant_qconfig.activation(), LearnedScaleFakeQuantize)
    assert default_qat_8bit_lsq_quant_qconfig.weight().ch_axis == 0


def test_int16_activations_with_int8_weights() -> None:
    qconfig = get_default_qat_qconfig(dtype="qint16")
    assert (qconfig.activation().dtype, qconfig.weight().dtype) == ("qint16", "qint8")
    assert get_default_calib_qconfig(dtype="qint16").activation().dtype == "qint16"


def test_qkwargs_reach_fake_quant_and_observer() -> None:
    qconfig = get_default_qconfig(
        activation_observer="percentile",
        activation_qkwargs={"percentile": 99.0, "dtype": "qint16"},
        weight_qkwargs={"averaging_constant": 0.0},
    )
    activation = qconfig.activation()
    assert (activation.dtype, activation.activation_post_process.percentile) == ("qint16", 99.0)
    assert qconfig.weight().activation_post_process.averaging_constant == 0.0


@pytest.mark.parametrize("name", ["min_max", "absolute_min_max", "percentile", "kl", "mse", "mix", "calib"])
def test_every_named_activation_observer_works(name: str) -> None:
    fake_quant = get_default_qconfig(activation_observer=name).activation()
    x = torch.randn(1000)
    fake_quant(x)
    assert 0 < fake_quant.scale.item() <= x.abs().max().item() / 127 * 1.0001  # the largest value may be put on the grid


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: get_default_qconfig(activation_fake_quant="learned"),
            "activation_fake_quant='learned' .* supported: fake_quant, lsq, pact, calib",
        ),
        (lambda: get_default_qconfig(activation_observer="minmax"), "activation_observer='minmax' .*supported: min_max, .*mix"),
        (
            lambda: get_default_qconfig(weight_observer="calib"),
            "weight_observer='calib' .*supported: min_max, absolute_min_max, fixed_scale, .*noop",
        ),
        (lambda: get_default_qat_qconfig(dtype="qint4"), "qint8, qint16"),
        (lambda: get_default_qat_qconfig(weight_dtype="qint16"), "weight_dtype='qint16' .*supported: qint8"),
    ],
)
def test_unsupported_values_list_the_supported_ones(call, message: str) -> None:
    with pytest.raises(QConfigError, match=message):
        call()


def test_qconfigs_copy_and_pickle() -> None:
    qconfig = get_default_qat_qconfig()
    assert copy.deepcopy(qconfig) == qconfig == pickle.loads(pickle.dumps(qconfig))


def test_public_names_resolve() -> None:
    for name in quantization.__all__:
        assert getattr(quantization, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'preparation'"):
        quantization.__getattr__("preparation")


# --- which one is in force -----------------------------------------------------------------------------------------------


def test_priority_is_global_type_name_module() -> None:
    net = Net()
    entries: dict = {"": G}
    assert QConfigResolver(entries, net).resolve("block.0.conv") is G
    entries["module_type"] = [(nn.Conv2d, T)]
    assert QConfigResolver(entries, net).resolve("block.0.conv") is T
    assert QConfigResolver(entries, net).resolve("block.0.act") is G
    entries["module_name"] = [("block.0", N)]
    assert QConfigResolver(entries, net).resolve("block.0.conv") is N  # a name outranks a type, also from further out
    assert QConfigResolver(entries, net).resolve("block.1.conv") is T
    net.block[0].conv.qconfig = M
    assert QConfigResolver(entries, net).resolve("block.0.conv") is M
    assert QConfigResolver(entries, net).resolve("block.0.act") is N


def test_entries_cover_what_is_inside_and_the_nearest_counts() -> None:
    resolver = QConfigResolver({"": G, "module_type": {Block: T}, "module_name": {"block": N, "block.1.conv": M}}, Net())
    assert resolver.resolve("block.0.conv") is N
    assert resolver.resolve("block.1.conv") is M
    assert resolver.resolve("block") is N
    assert resolver.resolve("conv1") is G
    assert QConfigResolver({"module_type": {Block: T}}, Net()).resolve("block.1.act") is T


def test_names_match_whole_components() -> None:
    resolver = QConfigResolver({"": G, "module_name": {"conv1": N}}, Net())
    assert resolver.resolve("conv1") is N
    assert resolver.resolve("conv10") is G


def test_a_name_inside_a_module_with_a_qconfig_is_more_specific() -> None:
    net = Net()
    net.qconfig = M
    resolver = QConfigResolver({"module_name": {"conv1": N}, "module_type": {nn.Conv2d: T}}, net)
    assert resolver.resolve("conv1") is N
    assert resolver.resolve("conv10") is M
    assert resolver.resolve("") is M


def test_no_entry_is_no_qconfig_and_none_takes_it_away() -> None:
    assert QConfigResolver(None, Net()).resolve("conv1") is None
    resolver = QConfigResolver({"": G, "module_name": {"conv1": None}}, Net())
    assert resolver.resolve("conv1") is None
    assert resolver.resolve("conv10") is G


def test_torch_style_qconfigs_are_accepted() -> None:
    foreign = namedtuple("foreign", ["activation", "weight"])(FakeQuantize, FakeQuantize)
    assert QConfigResolver({"": foreign}, Net()).resolve("conv1") == QConfig(FakeQuantize, FakeQuantize)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"module_nam": []}, "unknown key 'module_nam'; known: .*; did you mean module_name"),
        ({"object_type": []}, "unknown key 'object_type'.* known: '', 'module_type', 'module_name'"),
        ({"module_name": [("block.0.cnov", N)]}, "'block.0.cnov' matches no module of the model; did you mean block.0.conv"),
        ({"module_name": {"": N}}, "'' matches no module"),
        ({"module_name": ["conv1"]}, "module_name takes a dict or a list of pairs"),
        ({"module_name": N}, "list of pairs"),
        ({"module_type": [(nn.Conv1d, T)]}, "Conv1d matches no module of the model; did you mean Conv2d"),
        ({"module_type": [(torch.relu, T)]}, "takes classes of modules"),
        ({"": "int8"}, "'int8', which is no QConfig"),
        ({"module_name": {"conv1": FakeQuantize}}, "no QConfig"),
    ],
)
def test_wrong_entries_are_refused(entries: dict, message: str) -> None:
    with pytest.raises(QConfigError, match=message):
        QConfigResolver(entries, Net())


def test_a_wrong_module_attribute_is_refused_where_it_is_used() -> None:
    net = Net()
    net.block[1].qconfig = "int8"
    with pytest.raises(QConfigError, match=r"attribute of block\.1 has 'int8'"):
        QConfigResolver({"": G}, net).resolve("block.1.conv")
