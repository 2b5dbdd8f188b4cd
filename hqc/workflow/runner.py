"""Runs a deployed model on inputs of any batch size: one cache of programs, one reading of inputs, one form of outputs.

Used by `Compiled`, by `convert_fx`'s module and by export. For shapes it has not seen, the prepared model is lowered again with
them: sizes that the model's code computes or names are then what the code makes of the new shapes.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from hqc.backends import bpu
from hqc.errors import InputError, PlanError, ShapeError
from hqc.frontend.fx import OutputRef
from hqc.structures import map_structure
from hqc.workflow.arguments import bind, input_names, tensors_of
from hqc.workflow.deploy import deploy
from hqc.workflow.deployment import PROGRAMS_KEPT, Deployment, batch_sizes, disagreeing
from hqc.workflow.prepared import ObservedGraphModule

if TYPE_CHECKING:
    from hqc.backends.bpu.profile import ProfileRow

Array = npt.NDArray[Any]
_Shapes = tuple[tuple[int, ...], ...]


class Runner:
    """A deployed model for inputs of any batch size. `deployment` None: made at the first run, from its shapes."""

    def __init__(self, prepared: ObservedGraphModule, deployment: Deployment | None = None) -> None:
        self.prepared = prepared
        self._deployed = deployment
        self._cache: OrderedDict[_Shapes, tuple[Deployment, bpu.Program]] = OrderedDict()

    @property
    def deployment(self) -> Deployment | None:
        """For the shapes the model was planned for; None while they are unknown."""
        if self._deployed is None and self.prepared.preparation.inputs is not None:
            self._deployed = deploy(self.prepared)
        return self._deployed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_deployed": None}  # made again where they are needed

    def run(self, args: Sequence[Any]) -> Any:
        """The outputs, as NumPy arrays, in the structure that the model returns. `args`: as for the model's forward."""
        arguments = self.arguments(args)
        deployment, program = self.program(arguments)
        arrays = _typed(deployment, arguments)
        results = program.run(arrays)
        return self.restored([results[name] for name in program.output_names], deployment)

    def restored(self, results: Sequence[Any], deployment: Deployment | None = None) -> Any:
        """Results in the order of the graph's outputs, in the structure that the model returns."""
        deployment = deployment or self.deployment
        assert deployment is not None
        return restore(self.prepared, deployment.outputs, results)

    def named_program(self, arrays: Mapping[str, Array]) -> bpu.Program:
        """The program for arrays by input name, of the shapes of the deployment."""
        assert self.deployment is not None
        return self._compiled(tuple(tuple(array.shape) for array in arrays.values()), self.deployment)[1]

    def profile(self, args: Sequence[Any]) -> list[ProfileRow]:
        """Time, MACs and bytes per node of one run."""
        arguments = self.arguments(args)
        deployment, program = self.program(arguments)
        return program.profile(_typed(deployment, arguments))

    def arguments(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """`args` as the model's positional arguments, in the structure it was planned for."""
        return bind(args, self.prepared.preparation.inputs, input_names(self.prepared))

    def program(self, arguments: tuple[Any, ...]) -> tuple[Deployment, bpu.Program]:
        """The deployment for inputs of these shapes, and its program."""
        shapes = tuple(tuple(np.shape(leaf)) for leaf in tensors_of(arguments))
        if shapes in self._cache:
            self._cache.move_to_end(shapes)
            return self._cache[shapes]
        return self._compiled(shapes, self._deployment(arguments, shapes))

    def _compiled(self, shapes: _Shapes, deployment: Deployment) -> tuple[Deployment, bpu.Program]:
        if shapes not in self._cache:
            self._cache[shapes] = deployment, bpu.compile(deployment.integer, opaque=deployment.opaque)
            while len(self._cache) > PROGRAMS_KEPT:
                self._cache.popitem(last=False)
        return self._cache[shapes]

    def _deployment(self, arguments: tuple[Any, ...], shapes: _Shapes) -> Deployment:
        base = self.deployment
        if base is None:
            self._deployed = base = deploy(self.prepared, arguments)
        known = tuple(tuple(value.shape or ()) for value in base.scaled.inputs)
        if shapes == known:
            return base
        sizes = batch_sizes(base.scaled.inputs, shapes)
        if len(batch_sizes(base.scaled.inputs, known)) == 1 and len(sizes) > 1:
            raise disagreeing(shapes)
        try:
            deployment = deploy(self.prepared, arguments)
        except PlanError as error:
            raise _other_operations(known, shapes, error) from None
        deployment.scaled.share_parameters(base.scaled)
        deployment.integer.share_parameters(base.integer)
        return deployment


def _other_operations(planned: _Shapes, shapes: _Shapes, error: PlanError) -> ShapeError:
    """Inputs of which the model makes another graph: a batch of one leaves nothing to do for `squeeze` or `view(1, -1)`."""
    given, before = (", ".join(str(list(shape)) for shape in each) for each in (shapes, planned))
    return ShapeError(
        f"for inputs of the shapes {given} the model's code computes other operations than for {before}, which it was planned for "
        f"({error.what}); compile it with example_inputs of these shapes, or give it inputs of the planned ones, one after the other"
    )


def _typed(deployment: Deployment, arguments: tuple[Any, ...]) -> dict[str, Array]:
    """The tensors by input name, in the dtypes of the graph."""
    values = deployment.integer.inputs
    return {
        value.name: np.asarray(leaf).astype(value.type.dtype.numpy, copy=False)
        for value, leaf in zip(values, tensors_of(arguments), strict=True)
    }


def restore(prepared: fx.GraphModule, outputs: Any, results: Sequence[Any]) -> Any:
    """What the model returns, with `results` in the places of its tensors; None, numbers and texts are what they were."""
    (node,) = [node for node in prepared.graph.nodes if node.op == "output"]
    filled = map_structure(outputs, lambda item: results[item.index] if isinstance(item, OutputRef) else item)
    return _as_returned(node.args[0], filled)


def _as_returned(returned: Any, filled: Any) -> Any:
    """`filled` with the dataclasses that `returned` (of an FX graph) makes; lowering has their fields as a dict."""
    if isinstance(returned, fx.Node) and isinstance(returned.target, type) and dataclasses.is_dataclass(returned.target):
        given = dict(zip((field.name for field in dataclasses.fields(returned.target)), returned.args, strict=False))
        given.update(returned.kwargs)
        return returned.target(**{key: _as_returned(given.get(key), value) for key, value in filled.items()})
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return type(returned)(*map(_as_returned, returned, filled))
    if isinstance(returned, (tuple, list)):
        return type(filled)(map(_as_returned, returned, filled))
    if isinstance(returned, dict):
        return {key: _as_returned(item, filled[key]) for key, item in returned.items()}
    return filled


def as_tensors(structure: Any, device: torch.device) -> Any:
    """NumPy arrays of a structure as tensors on `device`."""
    return _map_arrays(structure, lambda array: torch.from_numpy(np.asarray(array, order="C")).to(device))


def as_arrays(structure: Any) -> Any:
    """Tensors of a structure as NumPy arrays."""
    return _map_arrays(structure, _as_array)


def _as_array(tensor: Any) -> Any:
    """NumPy has no bfloat16, which autocast makes."""
    if tensor.is_meta:
        raise InputError("a result of the model is on the meta device and has no values; make its tensors where the inputs are")
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def arrays_of(structure: Any) -> list[Any]:
    """The arrays and tensors of a structure, in the order of the graph's outputs."""
    found: list[Any] = []
    _map_arrays(structure, lambda item: found.append(item) or item)  # type: ignore[func-returns-value]
    return found


def _map_arrays(structure: Any, function: Any) -> Any:
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        fields = {field.name: getattr(structure, field.name) for field in dataclasses.fields(structure)}
        return dataclasses.replace(structure, **{key: _map_arrays(value, function) for key, value in fields.items()})
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(_map_arrays(item, function) for item in structure))
    if isinstance(structure, (tuple, list)):
        return (list if isinstance(structure, list) else tuple)(_map_arrays(item, function) for item in structure)
    if isinstance(structure, dict):
        return {key: _map_arrays(item, function) for key, item in structure.items()}
    return function(structure) if isinstance(structure, (np.ndarray, torch.Tensor)) else structure
