"""Converted models in TorchScript: one operation, `hqc::simulate`, with the compiled model as its constant.

A trace or a saved script module thus holds everything; where it is loaded, `import hqc.workflow.traced` (which every part of hqc that
knows torch does) makes the operation known.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hqc.errors import InputError
from hqc.files import write_file
from hqc.workflow.loaded import LoadedModel
from hqc.workflow.saved import SavedModel, read_model, write_model

_DIGEST = 32
_KEPT = 4
_models: OrderedDict[bytes, LoadedModel] = OrderedDict()

_library: Any = torch.library.Library("hqc", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("simulate(Tensor[] inputs, Tensor program) -> Tensor[]")


def packed(saved: SavedModel) -> Tensor:
    """A compiled model as bytes: uint8 `[N]`, the digest of the file first."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_model(saved, Path(folder) / "model.safetensors").read_bytes()
    return torch.frombuffer(bytearray(hashlib.sha256(data).digest() + data), dtype=torch.uint8)


def unpacked(program: Tensor) -> LoadedModel:
    """The compiled model in such bytes; `InputError` for others. The last few stay loaded."""
    digest = program[:_DIGEST].cpu().numpy().tobytes()
    if digest not in _models:
        data = program[_DIGEST:].cpu().numpy().tobytes()
        if hashlib.sha256(data).digest() != digest:
            raise InputError("the script module holds no compiled model of hqc, or it is damaged")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            write_file(path, data)
            _models[digest] = LoadedModel(read_model(path))
        while len(_models) > _KEPT:
            _models.popitem(last=False)
    _models.move_to_end(digest)
    return _models[digest]


def _simulate(inputs: Sequence[Tensor], program: Tensor) -> list[Tensor]:
    """The model's tensors, in order."""
    device = inputs[0].device if inputs else torch.device("cpu")
    results = unpacked(program).run([each.detach().cpu().numpy() for each in inputs])
    return [torch.from_numpy(np.array(array, order="C")).to(device) for array in results]


_library.impl("simulate", _simulate, "CompositeExplicitAutograd")


def simulate(inputs: Sequence[Tensor], program: Tensor) -> list[Tensor]:
    """What the compiled model in `program` makes of its input tensors, in the order of the graph's inputs."""
    result: list[Tensor] = torch.ops.hqc.simulate(list(inputs), program)
    return result


def program_of(module: torch.jit.ScriptModule) -> LoadedModel | None:
    """The compiled model that a script module calls; None where it calls none."""
    graph = getattr(module, "inlined_graph", None)
    for node in () if graph is None else graph.findAllNodes("hqc::simulate"):
        program = list(node.inputs())[1].toIValue()
        if isinstance(program, Tensor):
            return unpacked(program)
    return None
