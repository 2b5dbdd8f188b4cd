"""Modules that torch.jit scripted, traced, froze or loaded: Python again, with the layers that they were."""

# no `from __future__ import annotations`: TorchScript reads annotations
import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, Dict, List, Optional  # noqa: UP035 (TorchScript reads these)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hqc
from hqc.errors import InputError, TraceError
from hqc.frontend.fx import as_traceable, trace
from hqc.march import March, set_march
from hqc.nn import QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.structures import leaves
from hqc.utils.onnx_helper import export_to_onnx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Convolutions(nn.Module):
    """Layers, a branch on a size, a loop and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.act(self.bn(self.conv(x))))
        if x.shape[2] % 2 == 0:
            x = F.max_pool2d(x, 2)
        parts = []
        for i in range(2):
            parts.append(x * (i + 1))
        return F.interpolate(torch.cat(parts, 1), scale_factor=2.0, mode="nearest")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // 2) ** -0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(batch, count, width))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.GRU(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x)
        z, _ = self.gru(y)
        return z


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.attention(x, x, x, need_weights=False)[0])


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.up = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 2, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.bn(self.conv(x.flatten(2))).relu())


class Structures(nn.Module):
    """Optional arguments, attributes, buffers, dicts, lists, several results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale, self.sizes = 2.0, [1, 2]
        self.register_buffer("positions", torch.arange(8.0))

    def forward(self, x: torch.Tensor, mask: Optional[torch.Tensor] = None, flag: bool = True) -> Dict[str, torch.Tensor]:  # noqa: UP006, UP045
        y = self.conv(x) * self.scale + self.positions
        if mask is not None:
            y = y * mask
        if flag:
            y = y + self.sizes[1]
        pooled: Dict[str, torch.Tensor] = {}  # noqa: UP006
        for size in [2, 4]:
            pooled[str(size)] = F.adaptive_avg_pool2d(y, size)
        flat = torch.jit.annotate(List[torch.Tensor], [])  # noqa: UP006
        for each in pooled.values():
            flat.append(each.flatten(1))
        z = torch.cat(flat, 1)
        values, indices = z.topk(3, dim=1)
        largest, _ = torch.max(z, dim=1, keepdim=True)
        z[:, :2] = 0.5
        return {
            "values": values,
            "indices": indices,
            "largest": largest,
            "part": z[:, 1:5],
            "zeros": torch.zeros(y.shape[0], 2, dtype=torch.int64) + indices[:, :2],
            "chosen": torch.where(z > 0, z, torch.zeros_like(z)),
            "half": z.chunk(2, 1)[0],
        }


class OnData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x


class Counting(nn.Module):
    count: int

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


IMAGES, ROWS = (2, 3, 8, 8), (2, 5, 8)
CASES: dict[type[nn.Module], tuple[int, ...]] = {
    Convolutions: IMAGES,
    Attention: ROWS,
    Recurrent: ROWS,
    Transformer: ROWS,
    OneDimensional: IMAGES,
    Structures: IMAGES,
}
WAYS = ("scripted", "traced", "frozen", "loaded", "part")


def _made(kind: type[nn.Module], way: str) -> tuple[nn.Module, Any, torch.Tensor]:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(CASES[kind])
    if way == "traced":
        return model, torch.jit.trace(model, x, strict=False, check_trace=False), x
    scripted = torch.jit.script(model)
    if way == "frozen":
        return model, torch.jit.freeze(scripted), x
    if way == "loaded":
        return model, torch.jit.load(io.BytesIO(scripted.save_to_buffer())), x
    return model, nn.Sequential(nn.Identity(), scripted).eval() if way == "part" else scripted, x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_it_computes_what_the_model_computes(kind: type[nn.Module], way: str) -> None:
    model, jit, x = _made(kind, way)
    traced = trace(jit, x)
    with torch.no_grad():
        expected, got = leaves(model(x)), leaves(traced(x))
        for one, other in zip(expected, got, strict=True):
            assert torch.allclose(one.double(), other.double(), atol=1e-5)


@pytest.mark.parametrize("way", ["scripted", "traced", "part", "loaded"])
def test_layers_are_layers_with_their_parameters(way: str) -> None:
    _, jit, x = _made(Convolutions, way)
    traced = trace(jit, x)
    called = [type(traced.get_submodule(str(node.target))) for node in traced.graph.nodes if node.op == "call_module"]
    assert [kind for kind in called if kind in (nn.Conv2d, nn.BatchNorm2d)] == [nn.Conv2d, nn.BatchNorm2d]
    if way == "scripted":
        assert traced.get_submodule("conv").weight is jit.conv.weight
    recurrent = trace(*_made(Recurrent, way)[1:])
    assert {type(module) for module in recurrent.modules()} >= {nn.LSTM, nn.GRU}


def test_whole_way_of_a_scripted_part(tmp_path: Any) -> None:
    set_march(March.BAYES)
    model, jit, x = _made(Convolutions, "scripted")
    compiled = hqc.compile(jit, x, march="bayes", calibration_data=[x])
    expected = model(x)
    assert (torch.as_tensor(compiled.simulate(x)) - expected).abs().max() < 0.05 * expected.abs().max()
    compiled.export(tmp_path / "whole.onnx")
    whole = nn.Sequential(QuantStub(), jit, nn.Flatten())
    prepared = prepare_qat_fx(whole, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x).train()
    before = {name: parameter.detach().clone() for name, parameter in prepared.named_parameters()}
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    prepared(x).square().mean().backward()
    optimizer.step()
    assert before
    assert all(not torch.equal(before[name], parameter) for name, parameter in prepared.named_parameters())
    export_to_onnx(copy.deepcopy(prepared).eval(), x, tmp_path / "trained.onnx")
    assert isinstance(jit, torch.jit.ScriptModule)
    assert torch.equal(jit(x), model(x))  # the user's is as it was


def test_parts_are_pickled_and_copied() -> None:
    model, jit, x = _made(Structures, "scripted")
    part, _ = as_traceable(jit)
    for other in (pickle.loads(pickle.dumps(part)), copy.deepcopy(part)):
        with torch.no_grad():
            assert torch.equal(other(x)["values"], model(x)["values"])
            assert torch.equal(other(x, x[:, :1], flag=False)["values"], model(x, x[:, :1], flag=False)["values"])
    assert type(part).__name__ == "Structures"


def test_what_no_graph_has_is_refused_with_the_line_of_the_scripted_code() -> None:
    with pytest.raises(TraceError, match=r"^test_scripted.py:\d+: a branch tests the value of `gt`"):
        trace(torch.jit.script(OnData()), torch.randn(3))
    with pytest.raises(TraceError, match="forward keeps count"):
        trace(torch.jit.script(Counting()), torch.randn(3))


def test_code_that_is_not_read_is_refused_in_one_sentence() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Own.apply(x)

    traced = torch.jit.trace(Model(), torch.randn(3))
    with pytest.raises(
        InputError, match=r"the layer 1 was scripted or traced by torch.jit, and its code has prim::PythonOp, which"
    ):
        trace(nn.Sequential(nn.ReLU(), traced), torch.randn(3))
    with pytest.raises(InputError, match=r"the model is a ScriptFunction of torch\.jit"):
        as_traceable(torch.jit.script(F.relu))
