"""`hqc.compile`: post-training quantization in one call, by the same steps as QAT.

prepare (emit the planned model, with observers) -> observe the calibration data -> lower again -> passes -> back end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from hqc.checked import checked, explained
from hqc.data import DataSpec, Preprocessing
from hqc.data.samples import PathLike
from hqc.errors import InputError
from hqc.files import path_text
from hqc.frontend.fx.updates import buffer_updates, unchanged_buffers
from hqc.ir import Value
from hqc.march import March
from hqc.passes.base import Remark
from hqc.quantization.merging import of_first_rank
from hqc.workflow.arguments import as_float32_inputs, given_to, input_names, tensors_of
from hqc.workflow.binding import with_named
from hqc.workflow.calibration import Observed, Progress, observe
from hqc.workflow.deploy import deploy, take_deployed_scales, with_calls, without_calls
from hqc.workflow.deployed import Deployed, samples_to_verify
from hqc.workflow.deployment import Deployment
from hqc.workflow.effort import Effort, Step, steps_of
from hqc.workflow.faithful import one_sample, require_faithful
from hqc.workflow.improve import improve
from hqc.workflow.kept_batches import KeptBatches
from hqc.workflow.onnx_files import as_torch
from hqc.workflow.options import CatPolicy, CompileOptions, ConflictPolicy, Edit, given_qconfig
from hqc.workflow.plain_torch import plain_torch
from hqc.workflow.planning import given_model
from hqc.workflow.prepare import prepare
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.references import ModelReference, SimulatorReference
from hqc.workflow.runner import Runner, as_arrays

if TYPE_CHECKING:
    from hqc.backends.bpu.profile import ProfileRow
    from hqc.backends.onnx import ExportReport
    from hqc.workflow.loaded import LoadedModel

Array = npt.NDArray[Any]


@explained
class Compiled(Deployed):
    """A compiled model. `deployment`: what the back ends take."""

    def __init__(
        self,
        prepared: ObservedGraphModule,
        deployment: Deployment,
        calibration: Observed | None = None,
        dump_dir: Path | None = None,
    ) -> None:
        """`calibration`: what calibration saw; of what it kept, that which fits the compiled shapes becomes `samples`."""
        self._prepared = prepared
        self.deployment = deployment
        calibration = calibration or Observed()
        self.calibration = replace(calibration, kept=[])
        self.samples = [
            found for batch in calibration.kept if (found := _sample(deployment.scaled.inputs, tensors_of(batch))) is not None
        ]
        self.dump_dir = dump_dir
        self._start()

    def _start(self) -> None:
        """What is made anew in each process. `references`: the two that exported files are compared with."""
        self.runner = Runner(self._prepared, self.deployment)
        self.references: tuple[ModelReference | SimulatorReference, ...] = (
            ModelReference(self._prepared, self._prepared.preparation.inputs, self.graph.output_names),
            SimulatorReference(self.runner),
        )

    @property
    def prepared(self) -> ObservedGraphModule:
        """The fake-quant torch model; yours to train or change: the float model that it remembers keeps its own weights from here on."""
        self._prepared.preparation.own_weights()
        return self._prepared

    @property
    def options(self) -> CompileOptions:
        """What the user asked for."""
        return self._prepared.preparation.options

    @property
    def march(self) -> str:
        return self.options.march

    def _given(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        return with_named(inputs, named, input_names(self._prepared)) if named else inputs

    def simulate(self, *inputs: Any, **named: Any) -> Any:
        """What the deployed model computes, bit for bit: NumPy arrays (or tensors) in, by position or by name, NumPy arrays out.

        Any batch size; a program is compiled once per size and kept. One output is returned bare, several in the structure
        that the model returns.
        """
        return self.runner.run(self._given(inputs, named))

    def fake_quant(self, *inputs: Any, **named: Any) -> Any:
        """The fake-quantized torch model's outputs as NumPy arrays: what training sees."""
        device = next((p.device for p in self._prepared.parameters()), torch.device("cpu"))
        arguments = pytree.tree_map_only(
            torch.Tensor, lambda x: x.to(device), self.runner.arguments(self._given(inputs, named))
        )
        with given_to(arguments):
            return as_arrays(self._prepared(*arguments))

    def profile(self, *inputs: Any, **named: Any) -> list[ProfileRow]:
        """Time, MACs and bytes per node of one simulated run."""
        return self.runner.profile(self._given(inputs, named))

    @checked
    def export(
        self,
        path: str | os.PathLike[str],
        *,
        flavour: str = "horizon",
        verify: bool = True,
        overwrite_configuration: bool = False,
    ) -> ExportReport:
        """Write the ONNX file (opset 11) and the yaml for hb_mapper beside it (`net.onnx`, `net.yaml`).

        `flavour`: horizon, runnable, qdq or integer.

        The yaml carries the preprocessing that calibration applied to pictures (see `hqc.data.Preprocessing`).

        `verify`: run the file in onnxruntime on calibration samples and compare it with the fake-quant model and the simulator before
        returning; of the flavour integer the simulator's numbers are what counts. Small networks are run on all samples that were kept
        (at most 4), those of some hundred million multiply-accumulates or ten million weights on the first. A yaml that is not as hqc
        wrote it is kept unless `overwrite_configuration`. `ExportError` when it cannot be written or differs.
        """
        from hqc.backends import onnx

        graph = self.integer_graph if flavour == "integer" else self.graph
        reference, other = self.references if flavour != "integer" else reversed(self.references)
        return onnx.export(
            graph,
            path,
            flavour=flavour,
            verify=verify,
            reference=reference if verify else None,
            simulator=other if verify else None,
            sample_inputs=samples_to_verify(self.graph, self.samples) or None,
            overwrite_configuration=overwrite_configuration,
            opaque=self.deployment.opaque,
            preprocessing=self.calibration.preprocessing,
        )

    @checked
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the compiled model to one `.safetensors` file, which `hqc.load` reads: graphs, scales, samples; no pickle, no code.

        Operations that only torch can run are stored as their ONNX sub-graphs; `ExportError` names one that has none.
        """
        return self.without_torch().save(path)

    def without_torch(self) -> LoadedModel:
        """What `hqc.load` gives of the file that `save` writes: the integer model alone, which needs no torch."""
        from hqc.workflow.loaded import LoadedModel
        from hqc.workflow.saving import saved_model

        return LoadedModel(saved_model(self._prepared, self.deployment, self.samples, self.calibration.preprocessing))

    def __getstate__(self) -> dict[str, Any]:
        return {
            "_prepared": self._prepared,
            "deployment": without_calls(self.deployment),
            "samples": self.samples,
            "calibration": self.calibration,
            "dump_dir": self.dump_dir,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.deployment = with_calls(self.deployment, self._prepared)
        self._start()


def _sample(values: Sequence[Value], tensors: Sequence[torch.Tensor]) -> dict[str, Array] | None:
    """A calibration batch as inputs of the compiled shapes: its first samples, repeated where it has fewer; None where it cannot be."""
    found = {}
    for value, tensor in zip(values, tensors, strict=True):
        shape, array = value.shape or (), tensor.detach().cpu().numpy()
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            return None
        if shape:
            array = array[np.arange(shape[0]) % len(array)]
        found[value.name] = array.astype(value.type.dtype.numpy, copy=False)
    return found


@checked
@plain_torch()
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    march: str | March,
    calibration_data: Iterable[Any] | PathLike | DataSpec,
    preprocessing: Preprocessing | None = None,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    qconfig_dict: Mapping[str, Any] | None = None,
    hybrid: bool = True,
    optimize_graph: bool = True,
    effort: Effort = "fast",
    without: Sequence[Step] = (),
    min_macs: float = 0.0,
    min_nodes: int = 0,
    cat_policy: CatPolicy = "output",
    conflict_policy: ConflictPolicy = "requantize",
    edits: Sequence[Edit] = (),
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[Any] = (),
    dump_dir: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
    workers: int = 1,
) -> Compiled:
    """Quantize a float model after training and compile it for a march.

    `model`: a float torch module in any mode, left untouched, or an ONNX file (a path or an `onnx.ModelProto`).
    `example_inputs`: a tensor or tuple of tensors that fixes the shapes; an ONNX file needs it only for sizes that it leaves
    open. `march`: `bernoulli`, `bernoulli2`, `bayes` or `bayes-e`. `calibration_data`: batches, each a tensor, an array, a
    tuple of positional inputs (labels behind them are left out) or a dict of inputs by name; at least one, all finite. Or the
    path of a folder of pictures or arrays, of a file, or `loader.py:function`: see `hqc.data.DataSpec` and
    docs/calibration_data.md. `preprocessing`: what is done to pictures (batches of a loader are taken as they come); it is
    written into the yaml for hb_mapper too. `hybrid_dict`: operations to place (see docs/placement.md). `hybrid`: without it,
    an operation that the BPU cannot run is an error. `qconfig_dict`: observers per module as for prepare_qat_fx; default: scales
    with the smallest squared error, of activations over the calibration data and of weights per channel. `effort`: `fast`; `good`
    also equalizes channels and tunes weights and biases on the calibration data, and keeps what gains; `best` tries more and takes
    twice as long. `without`: steps to leave out, of `nearest`, `equalize`, `bias`, `weights` (see docs/accuracy.md).
    `optimize_graph`: members of a shared-scale group share one scale. `min_macs`, `min_nodes`: BPU subgraphs with less go to the
    CPU, with the reason. `cat_policy`: `output` or `largest`, which scale a cat takes that cannot requantize.
    `conflict_policy`: `requantize` or `error` where a result was observed with another scale than it keeps. `edits`: passes of
    your own, from `hqc.workflow.pipelines.edit`. `concrete_args`: arguments of forward that are constants, with their values.
    `leaf_modules`: modules (classes, paths or instances) that run as they are, on the CPU. `dump_dir`: write the IR after every
    pass there. `progress`: True for a progress bar, or a callable that gets `(batches done, total)`.
    `workers`: processes that share the calibration (docs/many_processes.md).
    """
    model, example_inputs = as_torch(model, example_inputs)
    steps = steps_of(effort, without)
    model, leaves = given_model(model, leaf_modules)
    options = CompileOptions.of(
        march,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        qconfig=given_qconfig(qconfig_dict),
        optimize_graph=optimize_graph,
        nearest="nearest" in steps,
        min_macs=min_macs,
        min_nodes=min_nodes,
        cat_policy=cat_policy,
        conflict_policy=conflict_policy,
        edits=edits,
        concrete_args=concrete_args,
        leaf_modules=leaves,
    )
    inputs = as_float32_inputs(model, example_inputs)
    if not inputs:
        raise InputError("hqc.compile needs example_inputs: a tensor or a tuple of tensors")
    dumps = None if dump_dir is None else Path(path_text(dump_dir, verb="write"))
    prepared = prepare(model, options, inputs, dump_dir=None if dumps is None else dumps / "prepare")
    prepared.eval()
    measured = [step for step in steps if step != "nearest"]
    kept = KeptBatches() if measured else None
    with unchanged_buffers(prepared, set(buffer_updates(prepared.graph, prepared).buffers.values())):
        calibration = observe(
            prepared,
            calibration_data,
            progress=progress,
            preprocessing=preprocessing,
            kept_for_tuning=kept,
            workers=workers,
        )
        if calibration.kept:
            require_faithful(prepared, one_sample(prepared, calibration.kept[0]))
        gains = [] if kept is None else improve(prepared, of_first_rank(kept.batches), measured, thorough=effort == "best")
    deployment = deploy(prepared, dump_dir=None if dumps is None else dumps / "deploy")
    take_deployed_scales(prepared, deployment)
    deployment.remarks[:0] = [*prepared.preparation.remarks, *(Remark("effort", str(gain)) for gain in gains)]
    return Compiled(prepared, deployment, calibration, dumps)
