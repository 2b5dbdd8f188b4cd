"""`compare`: planted culprits come first with their cause, views agree where they must, and results print in every form."""

import csv
import io
import json

import pytest
import torch
from planted import KINDS, Network, data_for, planted
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.analysis.compare import CAUSES, compare, random_inputs
from hqc.errors import InputError
from hqc.quantization import get_default_qat_qconfig, prepare_calibration_fx, prepare_qat_fx
from hqc.quantization.fake_quantize import fake_quants
from hqc.workflow.calibration import calibrate


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "march"), [(0, "bayes"), (7, "bayes"), (11, "bayes"), (0, "bernoulli"), (4, "bernoulli")])
def test_planted_culprit_is_first_with_its_cause(kind, seed, march):  # all of 20 seeds: python tests/analysis/planted.py
    case = planted(kind, seed, march)
    first = compare(case.compiled, case.data).ranked()[0]
    assert first.name.is_called(case.culprit)
    assert first.own.cause == case.cause


class Mixed(nn.Module):
    """BPU and CPU operations, an in-place one among them, a functional convolution, fusion, a multi-result operation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.selu = nn.SELU(inplace=True)
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1) * 0.3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        left, right = torch.split(x, 4, 1)
        x = self.selu(torch.cat([right, left], 1))
        x = F.relu(F.conv2d(x, self.weight))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return self.fc(F.silu(x).mean((2, 3)))


@pytest.mark.parametrize("march", ["bayes", "bernoulli"])
def test_views_of_one_model_agree(march, tmp_path):
    data = [torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))]
    compiled = hqc.compile(Mixed().eval(), data[0], march=march, calibration_data=data)
    flavour = "runnable" if march == "bayes" else "horizon"
    compiled.export(tmp_path / "net.onnx", flavour=flavour)
    before = {name: value.clone() for name, value in compiled.prepared.state_dict().items()}
    found = compare(compiled, data, exported=tmp_path / "net.onnx")
    assert found.views == ("float", "calibrated", "simulator", "exported") and found.samples == 2 and not found.warnings
    for row in found.operations:
        steps = row.distance("calibrated", "exported")
        assert steps is None or steps.max_steps < 4, row.name
    assert len([row for row in found.operations if row.distance("float", "simulator")]) >= 7
    # The emitted model was left as it was.
    assert all(torch.equal(value, before[name]) for name, value in compiled.prepared.state_dict().items())
    integers, reference = compiled.simulate(data[0]), compiled.prepared.preparation.float_model(data[0]).detach().numpy()
    (output,) = found.outputs
    noise = ((integers - reference) ** 2).sum() / (reference**2).sum()
    assert 10 ** (-output.distances["float", "simulator"].sqnr / 10) == pytest.approx(noise, rel=1e-3)


def test_parts_of_an_own_error_and_names():
    case = planted("clipped activation", 2)
    found = compare(case.compiled, case.data)
    row = found.of("join")
    assert row.name.source and row.name.fx[0] == "join" and row.name.module == "join" and row.dtype == "int8"
    assert row.own.clipped > 0.2 and row.own.clipping > 0.9 and row.own.cause in CAUSES
    assert row.own.clipping + row.own.activation_rounding + row.own.weight_rounding == pytest.approx(1)
    # What comes after it inherits its error and adds little.
    later = found.of("behind_join").own
    assert later.inherited < 10 < later.sqnr
    with pytest.raises(InputError, match=r"join"):
        found.of("joined")


def test_every_form_of_the_result_holds_the_same_operations():
    case = planted("cat of unequal ranges", 4)
    found = compare(case.compiled, case.data)
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    data = json.loads(found.json())
    names = [row.name.name for row in found.operations]
    assert [row["name"] for row in rows] == [row["name"] for row in data["operations"]] == names
    first = found.ranked()[0]
    assert float(rows[names.index(first.name.name)]["cost"]) == pytest.approx(first.own.cost, rel=1e-4)
    assert found.table().row_count == len(found.ranked()) and found.table(2).row_count == 2
    assert found.pair_table("float", "simulator").row_count == len(names) + 1
    with pytest.raises(InputError, match="were not compared"):
        found.pair_table("float", "exported")


def test_a_trained_model_is_said_to_be_another_training():
    data = data_for(1)
    hqc.set_march("bayes")
    network = Network(1)
    network.stem, network.head = (
        nn.Sequential(hqc.nn.QuantStub(), network.stem),
        nn.Sequential(network.head, hqc.nn.DeQuantStub()),
    )
    calibrated = prepare_calibration_fx(
        network, {"": hqc.quantization.get_default_calib_qconfig()}, hybrid=True, example_inputs=data[0]
    ).eval()
    calibrate(calibrated, data)
    qat = prepare_qat_fx(calibrated, {"": get_default_qat_qconfig()}, hybrid=True).eval()
    untrained = compare(qat, data, calibrated=calibrated, own_errors=False)
    assert untrained.views == ("float", "calibrated", "qat", "simulator") and not untrained.warnings
    assert untrained.of("join").distance("calibrated", "qat") is not None and untrained.of("join").own is None
    with torch.no_grad():
        for parameter in qat.parameters():
            parameter.mul_(1.1)
    (warning,) = compare(qat, data, own_errors=False).warnings
    assert "two trainings" in warning


def test_nothing_to_compare_with():
    with pytest.raises(InputError, match=r"hqc\.compile"):
        compare(nn.Linear(2, 2), [torch.zeros(1, 2)])
    case = planted("clipped activation", 0)
    with pytest.raises(InputError, match="at least one batch"):
        compare(case.compiled, [])
    with pytest.raises(InputError, match="needs data"):
        compare(case.compiled.prepared)


def test_what_a_common_scale_costs_is_the_error_of_the_cat_that_asks_for_it():
    case = planted("cat of unequal ranges", 0, "bernoulli")
    before = {name: each.calculate_qparams()[0].clone() for name, each in fake_quants(case.compiled.prepared)}
    found = compare(case.compiled, case.data)
    left, right, cat = (found.of(name).own for name in ("left", "right", "cat"))
    assert (
        left.shared_cost < cat.cost + 2 < left.cost - 15
    )  # dB: on the common scale nearly all of what the cat costs is lost here
    assert right.shared_cost == pytest.approx(right.cost)  # the wide operand would have this scale anyway
    assert cat.shared_cost == cat.cost and "it shares" in _printed(found)
    after = {name: each.calculate_qparams()[0] for name, each in fake_quants(case.compiled.prepared)}
    assert all(torch.equal(before[name], after[name]) for name in before)
    bayes = compare(planted("cat of unequal ranges", 0).compiled, case.data)
    assert all(row.own is None or row.own.shared_cost == row.own.cost for row in bayes.operations)


def _printed(found):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(found.table())
    return console.export_text()


@pytest.mark.parametrize(("batch", "seed"), [(0, 0), (-1, 0), (2**70, 0), (1, -1), (1, 2**70)])
def test_batches_and_seeds_that_no_generator_takes_are_refused(batch: int, seed: int) -> None:
    compiled = hqc.compile(
        torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 4, 4), march="bayes", calibration_data=[torch.rand(1, 3, 4, 4)]
    )
    with pytest.raises(InputError, match="is a whole number from"):
        random_inputs(compiled, batch, seed)
