"""`hqc.compile`: post-training quantization in one call, by the same steps as QAT.

prepare (replay the plan on the FX graph, with observers) -> observe the calibration data -> lower again -> passes -> back end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.backends import bpu
from hqc.errors import InputError, ShapeError
from hqc.ir import Graph
from hqc.march import March, get_spec
from hqc.metrics.placement import PlacementReport, placement_report
from hqc.passes.base import Remark
from hqc.quantization.qconfig import get_default_qconfig
from hqc.workflow.calibration import Progress, as_float32, calibrate
from hqc.workflow.deploy import Deployment, as_numpy, deploy
from hqc.workflow.prepare import prepare
from hqc.workflow.prepared import ObservedGraphModule, as_tuple

Array = npt.NDArray[Any]


@dataclass
class Compiled:
    """A compiled model. `graph`: the scaled IR; `integer_graph`: what the simulator runs; `prepared`: the fake-quant torch model."""

    prepared: ObservedGraphModule
    deployment: Deployment
    march: str
    dump_dir: Path | None = None
    _programs: dict[int, bpu.Program] = field(default_factory=dict, repr=False)

    @property
    def graph(self) -> Graph:
        return self.deployment.scaled

    @property
    def integer_graph(self) -> Graph:
        return self.deployment.integer

    @property
    def remarks(self) -> list[Remark]:
        """What the passes had to say, in order."""
        return self.deployment.remarks

    @property
    def placement(self) -> PlacementReport:
        """Where every operation runs, and why."""
        return placement_report(self.graph)

    def explain(self) -> str:
        """The placement as text: device, subgraph and reasons per operation, then totals."""
        return str(self.placement)

    def simulate(self, *inputs: Any) -> Any:
        """What the deployed model computes, bit for bit: NumPy arrays (or tensors) in, NumPy arrays out.

        Any batch size; a program is compiled once per size and kept. One output is returned bare, several in the structure
        that the model returns.
        """
        arrays = self._arrays(inputs)
        program = self._program(arrays)
        results = program.run(dict(zip(program.input_names, arrays, strict=True)))
        return self._restore([results[name] for name in program.output_names])

    def fake_quant(self, *inputs: Any) -> Any:
        """The fake-quantized torch model's outputs as NumPy arrays: what training sees."""
        with torch.no_grad():
            tensors = [torch.as_tensor(array) for array in self._arrays(inputs)]
            outputs = self.prepared(*tensors)
        return pytree.tree_map(lambda x: x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x, outputs)

    def profile(self, *inputs: Any) -> Any:
        """Time, MACs and bytes per node of one simulated run."""
        arrays = self._arrays(inputs)
        program = self._program(arrays)
        return program.profile(dict(zip(program.input_names, arrays, strict=True)))

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        flavour: str = "horizon",
        verify: bool = True,
        overwrite_configuration: bool = False,
    ) -> Any:
        """Write the ONNX file (opset 11) and the yaml for hb_mapper beside it (`net.onnx`, `net.yaml`).

        `flavour`: horizon, runnable, qdq or integer.

        `verify`: run the file in onnxruntime on random inputs and compare with the fake-quant model (integer: with the
        simulator) before returning. A yaml that is not as hqc wrote it is kept unless
        `overwrite_configuration`. `ExportError` when it cannot be written or differs.
        """
        from hqc.backends import onnx

        graph = self.integer_graph if flavour == "integer" else self.graph
        reference = self._simulated if flavour == "integer" else self._fake_quantized
        return onnx.export(
            graph,
            path,
            flavour=flavour,
            verify=verify,
            reference=reference if verify else None,
            overwrite_configuration=overwrite_configuration,
            opaque=self.deployment.opaque,
        )

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML page: placement with reasons, error per layer, scales, remarks. `InputError` when it cannot be."""
        from hqc.analysis.html_report import write_report

        return write_report(self, path)

    def _fake_quantized(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        leaves = pytree.tree_leaves(self.fake_quant(*inputs.values()))
        return dict(zip(self.graph.output_names, leaves, strict=True))

    def _simulated(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._program(list(inputs.values())).run(inputs)

    def _arrays(self, inputs: Sequence[Any]) -> list[Array]:
        leaves = [leaf for leaf in pytree.tree_leaves(list(inputs)) if leaf is not None]
        values = self.graph.inputs
        if len(leaves) != len(values):
            raise InputError(f"the model takes {len(values)} input(s) ({', '.join(v.name for v in values)}), got {len(leaves)}")
        arrays = [as_numpy(leaf, value.name) for leaf, value in zip(leaves, values, strict=True)]
        for array, value in zip(arrays, values, strict=True):
            if value.shape is not None and (array.ndim != len(value.shape) or array.shape[1:] != value.shape[1:]):
                raise ShapeError(
                    f"input {value.name} has shape {list(array.shape)}, the model was compiled for {list(value.shape)} "
                    "(only the batch may differ)"
                )
        return [
            array.astype(np.float32) if value.type.dtype.is_float and array.dtype != np.float32 else array
            for array, value in zip(arrays, values, strict=True)
        ]

    def _program(self, arrays: Sequence[Array]) -> bpu.Program:
        sizes = {array.shape[0] for array in arrays if array.ndim}
        if len(sizes) > 1:
            raise ShapeError(f"inputs disagree about the batch size: {', '.join(str(list(a.shape)) for a in arrays)}")
        batch = sizes.pop() if sizes else 1
        if batch not in self._programs:
            deployment = self.deployment.with_batch(batch)
            self._programs[batch] = bpu.compile(deployment.integer, opaque=deployment.opaque)
        return self._programs[batch]

    def _restore(self, results: list[Array]) -> Any:
        output = next(node for node in self.prepared.graph.nodes if node.op == "output").args[0]
        _, spec = pytree.tree_flatten(output)
        return pytree.tree_unflatten(results, spec)


def compile(
    model: nn.Module,
    example_inputs: Any,
    *,
    march: str | March,
    calibration_data: Iterable[Any],
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    qconfig_dict: Mapping[str, Any] | None = None,
    hybrid: bool = True,
    optimize_graph: bool = True,
    min_macs: float = 0.0,
    min_nodes: int = 0,
    dump_dir: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Compiled:
    """Quantize a float model after training and compile it for a march.

    `model`: a float torch module in any mode; left untouched. `example_inputs`: a tensor or tuple of tensors that fixes the
    shapes. `march`: `bernoulli`, `bernoulli2`, `bayes` or `bayes-e`. `calibration_data`: batches, each a tensor, an array or a
    tuple of positional inputs; at least one, all finite. `hybrid_dict`: operations to place (see docs/placement.md).
    `qconfig_dict`: observers per module as for prepare_qat_fx; default: min-max. `optimize_graph`: members of a shared-scale
    group share one observer. `min_macs`, `min_nodes`: BPU subgraphs with less go to the CPU, with the reason. `dump_dir`:
    write the IR after every pass there. `progress`: True for a progress bar, or a callable that gets `(batches done, total)`.
    """
    spec = get_spec(march)
    inputs = as_tuple(example_inputs)
    if not inputs:
        raise InputError("hqc.compile needs example_inputs: a tensor or a tuple of tensors")
    inputs = tuple(pytree.tree_map(as_float32, list(inputs)))
    prepared = prepare(
        model,
        dict(qconfig_dict) if qconfig_dict else {"": get_default_qconfig()},
        march=March(spec.name),
        optimize_graph=optimize_graph,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        example_inputs=inputs,
        kind="ptq",
        min_macs=min_macs,
        min_nodes=min_nodes,
        dump_dir=None if dump_dir is None else Path(dump_dir) / "prepare",
    )
    prepared.eval()
    calibrate(prepared, calibration_data, progress=progress)
    deployment = deploy(prepared, inputs, dump_dir=None if dump_dir is None else Path(dump_dir) / "deploy")
    deployment.remarks[:0] = prepared.preparation.remarks
    return Compiled(prepared, deployment, spec.name, None if dump_dir is None else Path(dump_dir))
