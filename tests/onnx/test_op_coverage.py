"""Every op of the IR has an ONNX emitter; nothing is registered for an op that is gone."""

from __future__ import annotations

import ast
from pathlib import Path

import hqc.backends.onnx
from hqc.backends.onnx.registry import has_emitter, registered
from hqc.ir import all_ops

ROOM = Path(hqc.backends.onnx.__file__).parent


def test_every_op_has_an_emitter() -> None:
    assert [op.name for op in all_ops() if not has_emitter(op.name)] == []


def test_every_emitter_is_of_an_op() -> None:
    assert set(registered()) <= {op.name for op in all_ops()}


def test_every_op_is_tested_against_torch_or_the_simulator() -> None:
    """The names appear in the tests that run emitted models; a new op without one fails here."""
    names = ("segment_against_torch", "integer_flavour", "boundary_emitters", "opaque_forms")
    tests = "".join((Path(__file__).parent / f"test_{name}.py").read_text() for name in names)
    untested = [name for name in registered() if f'"{name}"' not in tests]
    assert untested == []


def test_the_back_end_imports_neither_torch_nor_the_simulator_and_only_verify_imports_onnxruntime() -> None:
    for file in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] != "torch", file
                assert not name.startswith(("hqc.backends.bpu", "hqc.passes", "hqc.frontend.fx")), file
                assert name.split(".")[0] != "onnxruntime" or file.name == "verify.py", file
