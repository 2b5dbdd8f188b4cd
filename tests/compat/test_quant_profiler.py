"""The analyses of `utils.quant_profiler` over the stages of one small network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hqc.errors import AbsentNameError, InputError
from hqc.march import March, set_march
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.quant_profiler import (
    check_qconfig,
    check_unfused_operations,
    compare_script_models,
    compare_weights,
    featuremap_similarity,
    get_module_called_count,
    get_raw_features,
    model_profiler,
    profile_featuremap,
    script_profile,
    set_preserve_qat_mode,
    show_cuda_memory_consumption,
)
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.prepared import ObservedGraphModule
from tests.compat.networks import Residual

X = torch.linspace(-1.0, 1.0, 3 * 12 * 12).reshape(1, 3, 12, 12)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_march(March.BERNOULLI2)
    monkeypatch.chdir(tmp_path)


class Stages:
    """One network, float, calibrated, trained and converted."""

    def __init__(self) -> None:
        set_march(March.BERNOULLI2)
        torch.manual_seed(0)
        self.float = Residual().eval()
        self.calibrated: ObservedGraphModule = prepare_calibration_fx(self.float, {"": get_default_calib_qconfig()}).eval()
        self.calibrated(X)
        config = {"": get_default_qat_qconfig(), "module_name": {"head": get_default_qat_out_qconfig()}}
        self.trained: ObservedGraphModule = prepare_qat_fx(self.calibrated, config).eval()
        for model in (self.calibrated, self.trained):
            set_fake_quantize(model, FakeQuantState.VALIDATION)
        self.converted: QuantizedGraphModule = convert_fx(self.trained)


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages()


@pytest.mark.parametrize("pair", ["float trained", "calibrated trained", "trained converted", "float converted"])
def test_similarity_of_two_stages(pair: str, stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (getattr(stages, name) for name in pair.split())
    rows = featuremap_similarity(first, second, X, out_dir=tmp_path)
    by_module = {row[1]: row for row in rows}
    assert {"stem", "block.add", "head"} <= set(by_module)
    assert all(row[3] > 0.99 for row in rows) and by_module["stem"][4] > 0
    if pair == "trained converted":
        assert all(row[6] < 1.5 for row in rows if row[4] is not None and row[2] != "mean" and row[1] != "head")
    assert (tmp_path / "similarity.txt").read_text() == capsys.readouterr().out


def test_similarity_functions(stages: Stages) -> None:
    for name in ("Cosine", "MSE", "L1", "KL", "SQNR", lambda a, b: (a - b).abs().max()):
        assert all(
            np.isfinite(row[3]) or row[3] == np.inf for row in featuremap_similarity(stages.float, stages.trained, X, name)
        )
    with pytest.raises(InputError, match="similarity_func must be one of Cosine"):
        featuremap_similarity(stages.float, stages.trained, X, "Manhattan")
    with pytest.raises(InputError, match="must be a prepared or a converted one"):
        featuremap_similarity(stages.float, stages.float, X)


def test_features_and_their_statistics(stages: Stages, tmp_path: Path) -> None:
    for model in (stages.float, stages.trained, stages.converted):
        found = get_raw_features(model, X)
        rows = profile_featuremap(found, out_dir=tmp_path)
        assert {"stem", "head"} <= {each["module_name"] for each in found}
        assert all(row[4] <= row[6] <= row[5] for row in rows)
    integers = get_raw_features(stages.trained, X, prefixes=("stem",), preserve_int=True)
    assert [each["module_name"] for each in integers] == ["stem"]
    scale = integers[0]["scale"]
    real = get_raw_features(stages.trained, X, types=(type(stages.trained.stem),))[0]["data"]
    assert torch.allclose(integers[0]["data"] * scale, real, atol=1e-6)
    assert "stem" in (tmp_path / "statistic.txt").read_text()


def test_weights(stages: Stages) -> None:
    for model in (stages.trained, stages.converted):
        pairs, rows = compare_weights(stages.float, model)
        assert set(pairs) == {"stem.weight", "head.weight"}  # the block's convolution has moved to the addition
        assert all(row[1] > 0.999 for row in rows)
        scale = stages.trained.stem.weight_fake_quant.scale.view(-1, 1, 1, 1)
        steps = pairs["stem.weight"]["quantized"] / scale
        assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_unfused_operations() -> None:
    class Unfused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.act(y) + y  # y has two readers, so the layer cannot be ReLU's

    assert check_unfused_operations(Residual().eval(), X) == []
    found = check_unfused_operations(Unfused().eval(), X, print_tabulate=False)
    assert [chain[:2] for chain in found] == [["conv", "act"]]


def test_called_counts() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unused = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    assert get_module_called_count(Shared(), X) == {"conv": 2, "unused": 0}


def test_qconfigs(stages: Stages, tmp_path: Path) -> None:
    rows, high_precision, unusual = check_qconfig(stages.trained, X, out_dir=tmp_path)
    assert {row[0]: row[2] for row in rows} == {"quant": "qint8", "stem": "qint8", "block.add": "qint8", "head": "qint32"}
    assert high_precision == ["head"] and unusual == []
    assert "high-precision outputs: head" in (tmp_path / "qconfig_info.txt").read_text()
    marked = check_qconfig(stages.trained, X, prefixes=("stem",), custom_check_func=lambda module: True)
    assert marked[2] == ["stem"]
    with pytest.raises(InputError, match="check_qconfig takes a model from prepare"):
        check_qconfig(stages.float, X)


def test_scripts(stages: Stages) -> None:
    traced = torch.jit.trace(stages.converted, X)
    values = script_profile(traced, X)
    assert values["stem"].dtype == np.int8
    assert compare_script_models(traced, stages.converted, X) == []
    other = Stages()
    with torch.no_grad():
        other.trained.stem.weight.mul_(0.5)
    rows = compare_script_models(stages.converted, convert_fx(other.trained), X)
    assert rows[0][0] in ("stem", "stem.weight") or rows


def test_everything_at_once(stages: Stages, tmp_path: Path) -> None:
    page = model_profiler(stages.float, stages.trained, X, mode="FvsQ", out_dir=tmp_path / "debug")
    text = page.read_text()
    for section in ("similarity", "statistic", "weight_comparison", "qconfig_info", "unfused_pattern"):
        assert f"<h2>{section}</h2>" in text
    assert model_profiler(stages.trained, stages.converted, X, mode="QvsQ", out_dir=tmp_path / "other").is_file()
    with pytest.raises(InputError, match="mode must be one of FvsQ, QvsQ, CvsQ"):
        model_profiler(stages.float, stages.trained, X, mode="FvsF")


def test_what_has_no_counterpart_says_what_to_use(stages: Stages) -> None:
    with pytest.raises(AbsentNameError, match=r"hqc\.analysis\.compare"):
        set_preserve_qat_mode(stages.trained, prefixes=("stem",))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="measures on a CUDA device"):
            show_cuda_memory_consumption(stages.trained, X)
