"""A structural op added to a copy of the tree touches at most five files, and then runs everywhere: explain, simulator, file, training."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What is added to each file. docs/adding_an_op.md, "A structural op", describes the five places.
CARD = '''

def _half_turn(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    return x[..., ::-1, ::-1]


@op("half_turn", operands="x", traits=MOVES, compute=_half_turn)
def half_turn(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """The image upside down: the last two axes reversed."""
    return [first(types)]
'''
LOWERING = """

class HalfTurn(nn.Module):
    _hqc_leaf = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.rot90(2, (-2, -1))


@lower_module(HalfTurn)
def half_turn(ctx: LoweringContext, module: HalfTurn, input: Value) -> Value:
    return ctx.emit("half_turn", input)
"""
FORM = """

@torch_form_of("half_turn")
def _half_turn(a: Attributes) -> TorchForm:
    return TorchForm(torch.rot90, k=2, dims=(-2, -1))
"""
BINDING = '    "half_turn": Binding(("Slice",)),\n'
EMITTER = """

@emitter("half_turn")
def half_turn(node: Node, b: Builder) -> str:
    far, begin = b.ints([-(2**31)] * 2, "ends"), b.ints([-1, -1], "starts")
    return b("Slice", b.operand(node, 0), begin, far, b.ints([-2, -1], "axes"), b.ints([-1, -1], "steps"))
"""

CHECK = """
import numpy as np
import onnxruntime
import torch
from torch import nn
import hqc
from hqc.backends.onnx import emit_segment
from hqc.frontend.fx.lowerings.layout import HalfTurn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.turn, self.second = nn.Conv2d(3, 8, 3, padding=1), HalfTurn(), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.second(self.turn(self.first(x)))


torch.manual_seed(0)
x, model = torch.rand(1, 3, 8, 8), Model()
graph = hqc.lower(model, x)
turn = next(node for node in graph.nodes if node.op.name == "half_turn")
assert str(hqc.lower(model).value(turn.name).type) == "f32[?,8,?,?]"
session = onnxruntime.InferenceSession(emit_segment([turn], turn.operands, turn.results).SerializeToString())
image = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
assert (session.run(None, {turn.operands[0].name: image})[0] == image[..., ::-1, ::-1]).all()
compiled = hqc.compile(model, x, march="bayes", calibration_data=[x, 1 - x])
device = {node.op.name: node.device.value for node in compiled.graph.nodes}
assert device["half_turn"] == "bpu", device
expected = model(x).detach().numpy()
error = np.abs(compiled.simulate(x) - expected).max() / np.abs(expected).max()
assert error < 0.05, error
compiled.export("model.onnx")
"""


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_structural_op_touches_five_files_at_most(tmp_path: Path) -> None:
    for room in ("hqc", "passes", "backends"):
        shutil.copytree(ROOT / room, tmp_path / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    append(tmp_path / "hqc/ir/ops/layout.py", CARD)
    append(tmp_path / "hqc/frontend/fx/lowerings/layout.py", LOWERING)
    append(tmp_path / "hqc/frontend/fx/forms/layout.py", FORM)
    append(tmp_path / "backends/onnx/emitters/layout.py", EMITTER)
    bindings = tmp_path / "hqc/march/bindings.py"
    before = bindings.read_text(encoding="utf-8")
    bindings.write_text(before.replace('    "gather": ', f'{BINDING}    "gather": ', 1), encoding="utf-8")
    assert len(changed_files(tmp_path)) <= 5
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def changed_files(copy: Path) -> list[str]:
    """Files that differ from the tree's, or that it lacks."""
    found = []
    for room in ("hqc", "passes", "backends"):
        for path in sorted((copy / room).rglob("*")):
            twin = ROOT / path.relative_to(copy)
            source = path.is_file() and "__pycache__" not in path.parts
            if source and not (twin.is_file() and filecmp.cmp(path, twin, shallow=False)):
                found.append(str(path.relative_to(copy)))
    return found
