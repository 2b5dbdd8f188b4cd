"""Does the emitted model compute what the user's model computes? One run of each, with the quantization off, on one sample.

Tracing follows Python code that nobody here has seen. What it may get wrong (a write that was lost, a value that was taken for a
constant) is found here, before anybody calibrates or trains, whatever the cause.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hqc.errors import FAULTS, TraceError, first_line
from hqc.frontend.fx import trace
from hqc.frontend.fx.copying import deep_copy, in_eval_mode
from hqc.frontend.fx.precision import Float32Steps, said_of
from hqc.frontend.fx.results import tensors_opened
from hqc.frontend.fx.updates import buffer_updates, unchanged_buffers
from hqc.passes.base import Remark
from hqc.quantization.switches import quantizing
from hqc.structures import leaves
from hqc.workflow.arguments import from_meta, on_device_of
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.ties import FirstOfEquals

Array = npt.NDArray[Any]

TOLERANCE = 1e-3
"""Largest difference, as a share of the output's range. Folded batch norms and other orders of float sums stay far below."""
NUDGES = (1e-6, 4e-6)
"""Relative changes of inputs and weights, about those of folding and of other orders of sums, that show whether the model itself jumps:
a comparison with a threshold, a sort of near values."""


def require_faithful(prepared: ObservedGraphModule, arguments: Sequence[Any]) -> None:
    """Compare `prepared` with its float model on `arguments` (of forward); `TraceError` says by how much they differ, and from where on.

    Where the model computes in float16 or bfloat16 on the way, it is compared with what its steps give in float32.
    A model that cannot be compared is left with a remark: one that fails on these inputs, that draws other random numbers in each run, or
    whose own outputs jump when its inputs and weights change by a few millionths.
    """
    arguments = on_device_of(prepared, arguments)
    if any(leaf.is_meta for leaf in leaves(arguments) if isinstance(leaf, Tensor)):
        return
    model = _float_copy(prepared)
    try:
        expected = _outputs(model, arguments)
    except FAULTS as error:  # the user's code, which may raise anything on inputs that are only examples
        _remark(prepared, f"the float model fails on the example inputs ({type(error).__name__}: {first_line(error)})")
        return
    updated = set(buffer_updates(prepared.graph, prepared).buffers.values())
    try:
        with quantizing(prepared, ()), unchanged_buffers(prepared, updated):
            _take_state(prepared, updated)
            found = _outputs(prepared, arguments)
    except FAULTS as error:  # calls of the user's own objects are in the graph as they are
        raise TraceError(
            f"the graph that was traced from the model fails where the model runs ({type(error).__name__}: {first_line(error)}); keep the "
            "module that holds this code as it is with leaf_modules, and please report it"
        ) from error
    if len(found) != len(expected):
        raise TraceError(f"the model returns {len(expected)} tensors, and the graph that was traced from it {len(found)}")
    differing = _differing(expected, found)
    if differing is None:
        return
    with FirstOfEquals():  # type: ignore[no-untyped-call]
        if _differing(_outputs(model, arguments), found) is None:  # torch took others of equal scores
            return
        with Float32Steps() as steps:
            in_float32 = _outputs(model, arguments)
    if steps.met and _differing(in_float32, found) is None:
        prepared.preparation.remarks.extend(Remark("trace", said_of(dtype)) for dtype in steps.met)
        return
    if _jumps(prepared, expected, arguments):
        _remark(prepared, "its outputs jump when its inputs and weights change by a few millionths, or are drawn at random")
        return
    index, share = differing
    name = dict(enumerate(prepared.preparation.output_names)).get(index, str(index))
    raise TraceError(
        f"output {name} of the graph that was traced from the model differs from the model's own by {share:.2g} of its range"
        f"{_where(prepared, model, arguments)}; hqc misread the model's code there: keep the module that holds it as it is with "
        "leaf_modules, and please report it"
    )


def _take_state(prepared: ObservedGraphModule, names: Iterable[str]) -> None:
    """Buffers that calibration has changed have the values of the float model, which saw no data."""
    state = dict(prepared.preparation.float_model.named_buffers())
    with torch.no_grad():
        for name in names:
            if name in state:
                prepared.get_buffer(name).copy_(state[name])


def one_sample(prepared: ObservedGraphModule, batch: Sequence[Any]) -> tuple[Any, ...]:
    """As much of a batch as the model was planned for: a comparison needs no more."""
    planned, given = prepared.preparation.inputs or (), leaves(tuple(batch))
    wanted = [leaf for leaf in leaves(planned) if isinstance(leaf, Tensor)]
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    fits = len(wanted) == len(tensors) and all(
        a.ndim == b.ndim and a.ndim > 0 and a.shape[1:] == b.shape[1:] and len(a) >= len(b)
        for a, b in zip(tensors, wanted, strict=True)
    )
    if not fits:
        return tuple(batch)
    sizes = iter(wanted)
    return tuple(pytree.tree_map_only(Tensor, lambda tensor: tensor[: len(next(sizes))], list(batch)))


def _float_copy(prepared: ObservedGraphModule) -> nn.Module:
    """The float model with buffers and Python state of its own, for a run leaves no trace in what is remembered; weights are shared."""
    model = prepared.preparation.float_model
    copy = _without_shortcut(in_eval_mode(deep_copy(model, {id(each): each for each in model.parameters()})))
    return _with_constants(copy, prepared.preparation.options.concrete_args)


def _with_constants(model: nn.Module, constants: Mapping[str, Any] | None) -> nn.Module:
    """`model`, whose forward takes the arguments that are constants of the trace as such where they are not given."""
    if not constants:
        return model
    forward, signature = model.forward, inspect.signature(model.forward)

    @functools.wraps(forward)
    def fixed(*args: Any) -> Any:
        given = signature.bind_partial(*args)
        given.arguments.update({name: value for name, value in constants.items() if given.arguments.get(name) is None})
        return forward(*given.args, **given.kwargs)

    model.__dict__["forward"] = fixed
    return model


def _without_shortcut(model: nn.Module) -> nn.Module:
    """torch's encoder skips padded tokens in eval without gradients, and has zeros there; what is traced has what training computes."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model


def _outputs(model: nn.Module, arguments: Sequence[Any]) -> list[Array]:
    """The tensors and numbers that a model returns in eval mode, from the same state of the random generators in every call."""
    with torch.no_grad(), _in_eval(model), torch.random.fork_rng(devices=_cuda_devices(arguments)):
        torch.manual_seed(0)
        results = leaves(tensors_opened(model(*arguments)))
    return [
        np.asarray(leaf.detach().cpu().float() if isinstance(leaf, Tensor) else leaf) for leaf in results if _is_numeric(leaf)
    ]


def _is_numeric(leaf: Any) -> bool:
    return isinstance(leaf, (int, float)) or _is_real(leaf)


def _is_real(result: Any) -> bool:
    """A tensor of numbers that NumPy has too: not complex, nested or sparse."""
    return isinstance(result, Tensor) and not result.is_complex() and not result.is_nested and result.layout is torch.strided


def _cuda_devices(arguments: Sequence[Any]) -> list[int]:
    return sorted({leaf.get_device() for leaf in leaves(tuple(arguments)) if isinstance(leaf, Tensor) and leaf.is_cuda})


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _jumps(prepared: ObservedGraphModule, expected: Sequence[Array], arguments: Sequence[Any]) -> bool:
    """Whether the float model itself gives other outputs in a second run, or with inputs and weights that are nearly the same."""
    if _differing(expected, _outputs(_float_copy(prepared), arguments)) is not None:
        return True
    for size in NUDGES:

        def nudged(tensor: Tensor, size: float = size) -> Tensor:
            return _nudged(tensor, size)

        near = pytree.tree_map_only(Tensor, nudged, list(arguments))
        if _differing(expected, _outputs(_float_copy(prepared), near)) is not None:
            return True
        other = _without_shortcut(deep_copy(prepared.preparation.float_model))
        other = _with_constants(other, prepared.preparation.options.concrete_args)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(nudged(parameter))
        if _differing(expected, _outputs(other, arguments)) is not None:
            return True
    return False


def _nudged(tensor: Tensor, size: float) -> Tensor:
    """Every second element a little smaller, the others as much larger."""
    if not tensor.is_floating_point():
        return tensor
    signs = torch.ones(tensor.numel(), device=tensor.device, dtype=tensor.dtype)
    signs[::2] = -1.0
    return tensor * (1.0 + size * signs.reshape(tensor.shape))


def _differing(expected: Sequence[Array], found: Sequence[Array]) -> tuple[int, float] | None:
    """The first output that differs by more than the tolerance, and by how much of its range."""
    for index, (real, other) in enumerate(zip(expected, found, strict=True)):
        share = _share(real, other)
        if share > TOLERANCE:
            return index, share
    return None


def _share(real: Array, other: Array) -> float:
    """The largest difference as a share of the largest magnitude; infinite where the shapes or what is not finite differ."""
    if real.shape != other.shape:
        return float("inf")
    real, other = real.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(real)
    if not np.array_equal(real[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return float("inf")
    reach = np.abs(real[finite]).max(initial=0.0)
    difference = np.abs(real[finite] - other[finite]).max(initial=0.0)
    return float(difference / max(reach, 1e-30)) if difference > 1e-12 else 0.0


def _where(prepared: ObservedGraphModule, model: nn.Module, arguments: Sequence[Any]) -> str:
    """Between which modules the two part: modules that both call once, in order, and the first whose result differs."""
    options, inputs = prepared.preparation.options, prepared.preparation.inputs
    traced = trace(
        deep_copy(model),
        None if inputs is None else from_meta(inputs),
        leaf_modules=options.leaf_modules,
        concrete_args=options.concrete_args,
    )
    ours, theirs = _module_results(traced, arguments), _module_results(model, arguments)
    before = ""
    for name, result in theirs.items():
        if name not in ours:
            continue
        if _share(result, ours[name]) > TOLERANCE:
            return f"; they part between the modules {before} and {name}" if before else f"; they part before the module {name}"
        before = name
    return f"; they part behind the module {before}" if before else ""


def _module_results(model: nn.Module, arguments: Sequence[Any]) -> dict[str, Array]:
    """The result of every module that is called once and returns a tensor, in the order of the calls."""
    found: dict[str, list[Array]] = {}
    handles = []
    for name, module in model.named_modules():

        def keep(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
            if _is_real(result):
                found.setdefault(name, []).append(result.detach().cpu().float().numpy())

        if name:
            handles.append(module.register_forward_hook(keep))
    try:
        _outputs(model, arguments)
    finally:
        for handle in handles:
            handle.remove()
    return {name: results[0] for name, results in found.items() if len(results) == 1}


def _remark(prepared: ObservedGraphModule, why: str) -> None:
    message = f"the traced graph could not be compared with the model: {why}"
    prepared.preparation.remarks.append(Remark("trace", message))
