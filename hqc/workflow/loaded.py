"""`hqc.load`: a compiled model from its file. It simulates, explains and exports without torch and without the model's code."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hqc.backends import bpu
from hqc.checked import checked, explained
from hqc.errors import InputError, ShapeError
from hqc.ir import Value
from hqc.structures import map_structure
from hqc.workflow.binding import as_numpy, bind_structure, by_name, with_named
from hqc.workflow.deployed import Deployed, samples_to_verify
from hqc.workflow.deployment import PROGRAMS_KEPT, Deployment, batch_sizes, disagreeing
from hqc.workflow.saved import SavedModel, TensorRef, decoded, opaque_nodes, read_model, stored_forms, write_model

if TYPE_CHECKING:
    from hqc.backends.bpu.profile import ProfileRow
    from hqc.backends.onnx import ExportReport

Array = npt.NDArray[Any]


@checked
def load(path: str | os.PathLike[str]) -> LoadedModel:
    """The compiled model that `Compiled.save` wrote to `path`; `InputError` for what is no such file or damaged.

    No torch, no pickle, and no code from the file runs.
    """
    return LoadedModel(read_model(path))


@explained
class LoadedModel(Deployed):
    """A compiled model without its torch half: what it computes, where, and its files. The same bits as the `Compiled` it was.

    Named tuples and dataclasses that the model takes or returns are named tuples of the same fields here.
    """

    def __init__(self, saved: SavedModel) -> None:
        self._saved = saved
        self._inputs = decoded(saved.inputs, len(saved.scaled.inputs))
        outputs = decoded(saved.outputs, len(saved.scaled.outputs))
        self.deployment = Deployment(saved.scaled, saved.integer, stored_forms(saved), outputs, saved.remarks)
        self.samples = saved.samples
        self._programs: OrderedDict[int | None, bpu.Program] = OrderedDict()

    @property
    def march(self) -> str:
        return str(self.graph.march)

    def simulate(self, *inputs: Any, **named: Any) -> Any:
        """What the deployed model computes, bit for bit: arrays in, by position or by name, arrays out, in the model's structure.

        Any batch size; `ShapeError` for another one where operations are stored for the compiled one alone, or mix the samples of a batch.
        """
        arrays = self._arrays(with_named(inputs, named, self._saved.input_names))
        program = self._program(arrays)
        results = program.run(arrays)
        return _filled(self.deployment.outputs, [results[name] for name in program.output_names])

    def _in_order(self, tensors: Sequence[Array]) -> dict[str, Array]:
        if len(tensors) != len(self.graph.inputs):
            raise InputError(f"the model takes {len(self.graph.inputs)} tensor(s), got {len(tensors)}")
        return {value.name: np.asarray(array) for value, array in zip(self.graph.inputs, tensors, strict=True)}

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        """As `simulate`, from the tensors of the inputs in order to those of the outputs, without their structures."""
        arrays = self._in_order(tensors)
        program = self._program(arrays)
        results = program.run(arrays)
        return [results[name] for name in program.output_names]

    def run_all(self, tensors: Sequence[Array]) -> dict[str, Array]:
        """As `run`; every value of the program by name, integers as the chip holds them."""
        arrays = self._in_order(tensors)
        return dict(self._program(arrays).run(arrays, keep=True))

    def profile(self, *inputs: Any, **named: Any) -> list[ProfileRow]:
        """Time, MACs and bytes per node of one simulated run."""
        arrays = self._arrays(with_named(inputs, named, self._saved.input_names))
        return self._program(arrays).profile(arrays)

    def profile_tensors(self, tensors: Sequence[Array]) -> list[ProfileRow]:
        """As `profile`, from the tensors of the inputs in order."""
        arrays = self._in_order(tensors)
        return self._program(arrays).profile(arrays)

    @checked
    def export(
        self,
        path: str | os.PathLike[str],
        *,
        flavour: str = "horizon",
        verify: bool = True,
        overwrite_configuration: bool = False,
    ) -> ExportReport:
        """Write the ONNX file as `Compiled.export` does; `verify` runs it on the stored samples beside the simulator."""
        from hqc.backends import onnx

        integer = flavour == "integer"
        simulated = self._simulated if verify else None
        return onnx.export(
            self.integer_graph if integer else self.graph,
            path,
            flavour=flavour,
            verify=verify,
            reference=simulated if integer else None,
            simulator=None if integer else simulated,
            sample_inputs=samples_to_verify(self.graph, self.samples) or None,
            overwrite_configuration=overwrite_configuration,
            opaque=self.deployment.opaque,
            preprocessing=self._saved.preprocessing,
        )

    @checked
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model again, to one file."""
        return write_model(self._saved, path)

    def __getstate__(self) -> dict[str, Any]:
        return {"_saved": self._saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_saved"])  # type: ignore[misc]

    # --- inputs and programs ------------------------------------------------------------------------------------------

    def _arrays(self, args: Sequence[Any]) -> dict[str, Array]:
        """What the user gave, by the names of the graph's inputs and in their dtypes."""
        values = self.graph.inputs
        found: dict[str, Array] = {}

        def leaf(given: Any, like: TensorRef, name: str) -> None:
            value = values[like.index]
            found[value.name] = _typed(given, value, name)

        names = self._saved.input_names
        bind_structure(by_name(args, names), self._inputs, names, TensorRef, leaf)
        missing = [value.name for value in values if value.name not in found]
        if missing:
            raise InputError(f"the saved model is damaged: its inputs leave out {missing[0]}")
        return {value.name: found[value.name] for value in values}

    def _program(self, arrays: Mapping[str, Array]) -> bpu.Program:
        batch = self._batch(arrays)
        if batch not in self._programs:
            graph = self.integer_graph
            if batch is not None:
                held = opaque_nodes(graph)
                if held:
                    raise ShapeError(
                        f"{held[0].label} is stored for the batch size it was compiled for; give batches of "
                        f"{(graph.inputs[0].shape or (0,))[0]}, or compile for {batch}"
                    )
                graph = graph.with_batch(batch)
            self._programs[batch] = bpu.compile(graph, opaque=self.deployment.opaque)
            while len(self._programs) > PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(batch)
        return self._programs[batch]

    def _batch(self, arrays: Mapping[str, Array]) -> int | None:
        """The batch size of the inputs; None for the one the model was compiled for."""
        values = self.graph.inputs
        shapes = [arrays[value.name].shape for value in values]
        if all(shape == value.shape for value, shape in zip(values, shapes, strict=True)):
            return None
        sizes = batch_sizes(values, shapes)
        if len(sizes) != 1:
            raise disagreeing(shapes)
        return sizes.pop()

    def _simulated(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return self._program(arrays).run(arrays)


def _typed(given: Any, value: Value, name: str) -> Array:
    array, wanted = as_numpy(given, name), value.type.dtype
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {name} must hold numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not wanted.is_float:
        raise InputError(f"input {name} takes {wanted.numpy}, got {array.dtype}")
    return np.asarray(array).astype(wanted.numpy, copy=False)


def _filled(structure: Any, results: Sequence[Array]) -> Any:
    """`structure` with results in the places of its tensors."""
    return map_structure(structure, lambda item: results[item.index] if isinstance(item, TensorRef) else item)
