"""Which calls write into their first operand: torch itself is asked, call by call."""

import operator
import warnings

import pytest
import torch
from lowering_harness import Function, compare, run_graph
from torch.nn import functional

from hqc.errors import HqcError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.in_place import inplace_position, writes_first_operand

_METADATA = {"detach_", "resize_as_"}
"""In place by their form, but nothing is written by these arguments."""
_SIDE_EFFECTS = (
    "set_",
    "manual_seed",
    "_",
    "share_memory_",
    "cuda",
    "pin_memory",
    "backward",
    "storage",
    "module_load",
    "import_ir",
)


def _writes(call) -> set[bool]:
    """Whether `call` writes into a tensor that it gets, for the arguments that it takes."""
    index = torch.tensor([[0]])
    found = set()
    for tensor in (torch.ones(2, 2), torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.bool)):
        for rest in (
            (),
            (tensor.clone(),),
            (1,),
            (0, 1),
            (tensor.clone(), tensor.clone()),
            (0, index[0], 1),
            (0, index, tensor.clone()),
        ):
            first = tensor.clone()
            before = first._version
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    call(first, *rest)
            except Exception:
                continue
            found.add(first._version != before)
    return found


def _functions(home) -> list:
    named = [(name, getattr(home, name)) for name in dir(home) if home is operator or not name.startswith(_SIDE_EFFECTS)]
    return [function for _, function in named if callable(function) and not isinstance(function, type)]


@pytest.mark.parametrize("home", [operator, torch, functional], ids=lambda home: home.__name__)
def test_a_function_writes_into_its_operand_exactly_where_its_form_says_so(home):
    wrong = {}
    for function in _functions(home):
        found = _writes(function)
        asked = inplace_position(function) is not None  # `F.relu(x, 1)` asks for it
        if found and (True in found) != writes_first_operand(function) and not asked:
            wrong[function.__name__] = found
    assert set(wrong) <= _METADATA


def test_a_method_writes_into_its_tensor_exactly_where_its_name_says_so():
    wrong = {}
    for name in dir(torch.Tensor):
        if name.startswith(_SIDE_EFFECTS) and not name.startswith("__i"):
            continue
        found = _writes(lambda tensor, *rest, name=name: getattr(tensor, name)(*rest))
        if found and (True in found) != writes_first_operand(name):
            wrong[name] = found
    assert set(wrong) <= _METADATA


@pytest.mark.parametrize("join", [lambda a, b: a & b, lambda a, b: a | b, operator.and_, operator.or_, operator.xor])
def test_a_mask_that_is_joined_with_another_keeps_its_own_value(join):
    def masks(x):
        positive, small = x > 0, x < 1
        return join(positive, small).float(), positive.float(), torch.where(positive, x, -x)

    x = torch.linspace(-2, 2, 24).reshape(1, 4, 2, 3)
    lowered = lower_graph_module(trace(Function(masks), x), x)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), masks(x), 0)


class WritesInEval(torch.nn.Module):
    """PartialLargeKernel of PLKSR, and its kin: in eval the operand is written and returned."""

    def __init__(self, write) -> None:
        super().__init__()
        self.conv, self.write = torch.nn.Conv2d(2, 2, 3, padding=1), write

    def forward(self, x):
        if self.training:
            return torch.cat([self.conv(x[:, :2]), x[:, 2:]], 1)
        self.write(self.conv, x)
        return x


@pytest.mark.parametrize(
    "write",
    [
        lambda conv, x: x.__setitem__((slice(None), slice(2)), conv(x[:, :2])),
        lambda conv, x: x[:, :2].copy_(conv(x[:, :2])),
        lambda conv, x: x.mul_(2.0),
        lambda conv, x: functional.relu(x, inplace=True),
        lambda conv, x: x.narrow(1, 0, 2).add_(conv(x[:, :2])),
    ],
)
def test_a_module_that_writes_into_its_operand_and_returns_it_is_no_drop_path(write):
    """It looks at `self.training` and gives back what it got; the graph called it a second time."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), WritesInEval(write), torch.nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        for traced in (trace(model, x), trace(model)):
            torch.testing.assert_close(traced(x), model(x))
        lowered = lower_graph_module(trace(model, x), x)
        compare(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), model(x), 1e-5)


def causal_of_a_parameter_s_sizes(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weight` is a parameter: everything but the product is known, and only the mask is written."""
    size = x.shape[1]
    weight = weight[:, :size, :size]
    mask = torch.ones(weight.shape[-2:], device=x.device).triu_(1).bool()
    return x @ weight.masked_fill(mask, 0.0)


class OfParameter(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.weight = function, torch.nn.Parameter(torch.randn(1, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


def test_a_new_tensor_of_a_parameter_s_sizes_may_be_written() -> None:
    x, model = torch.randn(2, 4, 4), OfParameter(causal_of_a_parameter_s_sizes)
    lowered = lower_graph_module(trace(model, x), x)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), model(x).detach(), 1e-5)


def test_parts_of_a_parameter_may_not_be_written() -> None:
    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        left, right = weight.detach().chunk(2, dim=1)
        left.zero_()
        return x + left + right

    with pytest.raises(HqcError, match="parameter or buffer behind"):
        lower_graph_module(trace(OfParameter(function), torch.randn(2, 3, 6)), torch.randn(2, 3, 6))


def test_a_dropout_that_drops_nothing_is_active_nowhere() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x.exp(), p=0.0) * 2

    x = torch.randn(2, 3)
    lowered = lower_graph_module(trace(Function(function), x), x)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), function(x), 1e-6)
