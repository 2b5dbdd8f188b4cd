"""Writes where a computed mask holds are choices between two tensors."""

from __future__ import annotations

import pytest
import torch
from lowering_harness import Function, compare, run_graph

from hqc.errors import LoweringError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.march import March, set_march
from hqc.quantization import FakeQuantState, convert_fx, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize

X = torch.linspace(-2, 2, 48).reshape(2, 4, 2, 3)


def from_another(x):
    y, z = x * 1, x.flip(1)
    nearer = z < y
    y[nearer] = z[nearer]
    return y


def a_number(x):
    y = x * 1
    y[x > 1] = 0.5
    y[x < -1] = torch.tensor(3)
    return y


def rows(x):
    y, z = x * 1, x * 2
    kept = x.sum((2, 3)) > 0
    y[kept] = z[kept]
    y[x.amax((2, 3)) > 1.9] = -1
    return y


def through_a_view(x):
    y = x * 1
    part = y[:, 1:3]
    part[part > 0] = 7.0
    return y, part


def whole_numbers(x):
    places = torch.arange(3).view(1, 1, 1, 3).repeat(2, 4, 2, 1)
    first = places[..., :1].repeat(1, 1, 1, 3)
    beyond = x > 0
    places[beyond] = first[beyond]
    return places


def calls_on_the_cpu(x):
    z, small = torch.Tensor(x.shape[0], 4, 2, 3).to(x.dtype), x.abs() < 1
    z[small] = (4.0 - (x / 0.3)[small]) % 6
    z[~small] = torch.atan2(x[~small], (x + 1)[~small]) + x[~small] // 0.3
    return z


def computed(x):
    z, small = x * 1, x.abs() < 1
    z[small] = 0.5 * z[small] ** 2
    z[~small] = z[~small].abs() - 0.5  # another node, the same mask
    return z


def written_step_by_step(x):
    z, low = x * 1, x < 0
    z[low] *= 3
    z[low] += 1
    z[low] -= x[low]
    return z


def of_two_tensors(x):
    z = torch.zeros_like(x)
    z[x > 0] = torch.sqrt(x[x > 0]) * torch.relu(x + 1)[x > 0]
    return z


def computed_rows(x):
    z, wanted = (x * 1).permute(0, 2, 3, 1), x[:, 0] > 0
    z[wanted] = torch.sigmoid(z[wanted]) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    return z


def where_and_nonzero_as_index(x):
    """As decoders that attend within masks free the rows in which everything is masked."""
    y, masked = x * 1, x < 0
    masked[torch.where(masked.sum(-1) == masked.shape[-1])] = False
    y[masked.nonzero(as_tuple=True)] = 9.0
    chosen = torch.where(x > 1)
    y[chosen] = x[chosen] * 2
    return y, masked


MOVES = [from_another, a_number, rows, through_a_view, whole_numbers, where_and_nonzero_as_index]
COMPUTES = [computed, calls_on_the_cpu, written_step_by_step, of_two_tensors, computed_rows]


@pytest.mark.parametrize(("function", "tolerance"), [*((each, 0) for each in MOVES), *((each, 1e-6) for each in COMPUTES)])
def test_a_masked_write_computes_what_torch_computes(function, tolerance):
    lowered = lower_graph_module(trace(Function(function), X), X)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: X.numpy()}), function(X.clone()), tolerance)
    assert any(node.op.name == "where" for node in lowered.graph.nodes)


def other_mask(x):
    y = x * 1
    y[x > 0] = x[x >= 0]  # two masks, whose counts nobody compares
    return y


def summed(x):
    y = x * 1
    y[x > 0] = y[x > 0] / y[x > 0].sum()
    return y


def steps_of_two_masks(x):
    y = x * 1
    y[x > 0] = y[x > 0] + x[x < 1]
    return y


def read_elsewhere(x):
    y, mask = x * 1, x > 0
    part = x[mask]
    y[mask] = part
    return y, part.sum()


def counted(x):
    y, places = x * 1, torch.where(x > 0)
    y[places] = places[0].float()
    return y


def test_indices_of_a_mask_that_are_read_are_refused():
    with pytest.raises(LoweringError, match=r"where\(condition\) gives as many indices as the data has"):
        lower_graph_module(trace(Function(counted), X), X)


@pytest.mark.parametrize("function", [other_mask, read_elsewhere, summed, steps_of_two_masks])
def test_elements_that_something_else_reads_are_refused_with_their_line(function):
    with pytest.raises(
        LoweringError, match=r"test_masked_writes\.py:\d+.*an index by a computed mask has a size that depends on data"
    ):
        lower_graph_module(trace(Function(function), X), X)


class Clipped(torch.nn.Module):
    """Scales what lies above a bound, where there is any."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 1)
        self.slope = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        y = self.conv(x)
        above = y > 1
        y[above] = torch.tanh(y[above]) * self.slope
        return y


def test_steps_on_a_masked_part_are_trained_and_deployed():
    set_march(March.BAYES)
    torch.manual_seed(0)
    model = Clipped()
    prepared = prepare_qat_fx(
        torch.ao.quantization.QuantWrapper(model), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(X,)
    )
    nothing_above = torch.zeros_like(X)
    for batch in (X, 3 * X, nothing_above):
        prepared(batch).square().sum().backward()
    assert prepared.get_parameter("module.slope").grad.abs() > 0
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    with torch.no_grad():
        expected, found = prepared(X), convert_fx(prepared)(X)
    assert (found - expected).abs().max() <= expected.abs().max() / 64
