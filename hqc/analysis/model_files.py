"""Models as users have them: a class, factory or module in Python, with arguments and a checkpoint; exported programs; IR dumps."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hqc.errors import InputError
from hqc.files import path_text, settle
from hqc.frontend.fx.from_ir import graph_module_of
from hqc.frontend.fx.tensors import unusual_kind
from hqc.ir import Trait, load
from hqc.near_names import suggest
from hqc.python_files import WAYS, find_object, guarded
from hqc.workflow.onnx_files import zeros_of

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network")
"""Keys under which training scripts put the weights in their checkpoints."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every name: DistributedDataParallel, torch.compile, Lightning."""


def load_model(spec: str, checkpoint: str | None = None) -> tuple[Any, Any]:
    """A model and its example inputs (None where nobody says) by `spec`.

    `FILE.py:NAME` or `package.module:NAME`: NAME is a module or an exported program, or a class or function, called with the arguments
    behind it (`Net(width=32)`, literals only). A function may return `(model, example_inputs)`; the file may define `example_inputs`
    beside it. `FILE.pt2`: what `torch.export.save` wrote. `FILE.hqc`: IR from before placement. `checkpoint`: weights for the model.
    `InputError` with the user's own line for whatever the file raises.
    """
    suffix = Path(spec).suffix.lower()
    if suffix in (".hqc", ".pt2", ".pt", ".pth", ".ckpt", ".safetensors"):
        if checkpoint is not None:
            raise InputError(f"{spec} has its own weights; --checkpoint is for models in Python")
        return _read_file(spec, suffix)
    model, inputs = _from_python(spec)
    if checkpoint is not None:
        if not isinstance(model, nn.Module):
            raise InputError(f"{spec} is a {type(model).__name__} with its own weights; --checkpoint is for torch.nn.Modules")
        load_checkpoint(model, checkpoint)
    return model, inputs


def _read_file(spec: str, suffix: str) -> tuple[Any, Any]:
    path = Path(path_text(spec))
    settle(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if suffix == ".hqc":
        return _from_ir(path)
    if suffix == ".pt2":
        return _from_exported(path)
    raise InputError(
        f"{path} holds weights, not the model; give the model as FILE.py:NAME and the weights with --checkpoint {path}"
    )


def _from_ir(path: Path) -> tuple[nn.Module, Any]:
    graph = load(path)
    if any(node.device is not None or node.op.has(Trait.BOUNDARY) for node in graph.nodes):
        raise InputError(
            f"{path} holds a graph after placement; give one from before, such as 000-input.hqc, or run passes on it with hqc opt"
        )
    unknown = [value.name for value in graph.inputs if value.shape is None or None in (value.type.shape or ())]
    if unknown:
        raise InputError(f"{path}: the input {unknown[0]} has no shape")
    return graph_module_of(graph), tuple(map(torch.from_numpy, zeros_of(value.type for value in graph.inputs)))


def _from_exported(path: Path) -> tuple[Any, Any]:
    program = guarded(lambda: torch.export.load(path), str(path), f"{path} cannot be read as an exported program")
    return program, program.example_inputs[0] if program.example_inputs else None


def _from_python(spec: str) -> tuple[Any, Any]:
    target, arguments, keywords = _call_of(spec)
    found, module, path = find_object(target)
    name = target.rpartition(":")[2]
    models = (nn.Module, torch.export.ExportedProgram)
    if isinstance(found, models):
        if arguments or keywords or target != spec:
            raise InputError(f"{name} in {path} is a {type(found).__name__} already and takes no arguments here")
        built: Any = found
    elif callable(found):
        _check_call(found, arguments, keywords, name, path)
        built = guarded(lambda: found(*arguments, **keywords), path, f"{name}() in {path} failed")
    else:
        raise InputError(f"{name} in {path} is a {type(found).__name__}, not a torch.nn.Module, a class or a function")
    inputs = getattr(module, "example_inputs", None)
    if isinstance(built, tuple) and len(built) == 2:
        built, inputs = built
    if not isinstance(built, models):
        raise InputError(f"{name} in {path} gives a {type(built).__name__}, not a torch.nn.Module")
    if inputs is None and isinstance(built, torch.export.ExportedProgram) and built.example_inputs:
        inputs = built.example_inputs[0]
    return built, guarded(inputs, path, f"example_inputs() in {path} failed") if callable(inputs) else inputs


def _call_of(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """`FILE.py:Net(3, width=32)` -> `FILE.py:Net`, [3], {"width": 32}."""
    target, bracket, rest = spec.partition("(")
    if not bracket:
        return spec, [], {}
    if ":" not in target:
        raise InputError(f"give the model as {WAYS['the model']}, got {spec}")
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError
        arguments = [ast.literal_eval(each) for each in call.args]
        keywords = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
        if len(keywords) != len(call.keywords):
            raise ValueError
    except (SyntaxError, ValueError, TypeError):
        name = target.rpartition(":")[2]
        raise InputError(
            f"the arguments in {name}({rest} must be literals, such as {name}(32, mode='small'); for anything else write a function"
        ) from None
    return target, arguments, keywords


def _check_call(found: Any, arguments: list[Any], keywords: Mapping[str, Any], name: str, path: str) -> None:
    """Say which argument is missing or unknown, before the user's code runs."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # built in C, which says it itself
        return
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        shown = signature.replace(return_annotation=inspect.Signature.empty)
        raise InputError(f"{name} in {path}: {error}; it takes {name}{shown}, give arguments as {path}:{name}(...)") from None


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load the weights in a .pt, .pth, .ckpt, .bin or .safetensors file into `model`; nothing in the file is executed.

    Weights may lie under `state_dict`, `model` and the like, with the prefix of DistributedDataParallel, torch.compile or Lightning.
    `InputError` names entries that are missing, unknown or of another shape.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    weights = _unwrapped(_read_weights(path), path)
    wanted = model.state_dict()
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights) and not any(name.startswith(prefix) for name in wanted):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    problems = []
    for name, value in weights.items():
        if name not in wanted:
            problems.append(f"the model has no {name}{suggest(name, wanted)}")
        elif (kind := unusual_kind(value)) is not None:
            problems.append(f"{name} is a {kind} tensor")
        elif value.shape != wanted[name].shape:
            problems.append(f"{name} has shape {list(value.shape)}, the model's {list(wanted[name].shape)}")
    problems += [f"it lacks {name}" for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    if problems:
        shown = "; ".join(problems[:4])
        raise InputError(
            f"the checkpoint {path} does not fit the model: {shown}{f' (and {len(problems) - 4} more)' if len(problems) > 4 else ''}"
        )
    model.load_state_dict(weights, strict=False)


def _read_weights(path: str) -> Any:
    if Path(path).suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as .safetensors: {' '.join(str(error).split())}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside weights, which are not executed; write the weights alone with "
            f"torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # for a file that is none, torch's reader raises whatever its bytes lead to
        raise InputError(f"{path} cannot be read as a checkpoint: {' '.join(str(error).split())[:200]}") from error


def _unwrapped(found: Any, path: str) -> dict[str, torch.Tensor]:
    """The dict of tensors in a checkpoint, which may hold an optimizer, an epoch and so on beside it."""
    if isinstance(found, Mapping):
        for key in WRAPPERS:
            inner = found.get(key)
            if isinstance(inner, Mapping) and inner and not isinstance(next(iter(inner.values())), Mapping):
                found = inner
                break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        keys = f" with {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else ""
        raise InputError(f"{path} holds a {type(found).__name__}{keys}, not a state_dict of tensors")
    return {str(name): value for name, value in found.items()}
