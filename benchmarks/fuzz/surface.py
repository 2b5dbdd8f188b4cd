"""The public surface by introspection, and something fitting for every parameter: what odd arguments take the place of.

A public name is one in the `__all__` of a module without an underscore, on the API page, or on the page of the plugin's names. A class
stands for its constructor and its public methods, which are called on an example of it.
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import pkgutil
import random
import re
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

import hqc
from benchmarks.fuzz.cases import UserError
from benchmarks.fuzz.material import MARCHES, Net, Stubbed, compiled, image, odd_tensor, odd_value
from hqc.absent import AbsentModule, _Absent
from hqc.checked import annotations_of, misfit, takes
from hqc.errors import HqcError, InputError

API = Path(__file__).parents[2] / "docs" / "api.md"
NOT_PYTHON = ("hqc.cli", "hqc.language", "hqc.lazy")
"""Rooms whose `__all__` is for hqc itself."""
NOT_CALLED = {
    "hqc.show_versions": "takes nothing, and asks every library for its version",
    "hqc.compat.install": "changes what `import` finds in the whole process",
    "hqc.utils.quant_profiler.show_cuda_memory_consumption": "needs CUDA",
}


OTHERS_PROTOCOL = {"hqc.frontend.fx.HqcTracer": "its methods are those that torch.fx calls on a tracer"}
"""Classes of which only the constructor is for users, and why."""


@dataclass(frozen=True)
class Public:
    """`name`: as a user writes it. `call`: with what a test leaves out bound already. `owner`: the class whose method it is, or None."""

    name: str
    call: Callable[..., Any]
    owner: type | None = None

    def target(self) -> Callable[..., Any] | None:
        """What is called: for a method, that of a fresh example; None where there is no example of the class."""
        if self.owner is None:
            return self.call
        made = example_of(self.owner)
        return None if made is None else getattr(made, self.name.rpartition(".")[2])


def modules() -> Iterator[ModuleType]:
    """Modules with public names, `hqc` first."""
    yield hqc
    for found in pkgutil.walk_packages(hqc.__path__, "hqc."):
        if found.name.startswith(NOT_PYTHON) or any(part.startswith("_") for part in found.name.split(".")):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(found.name)
        if isinstance(module, ModuleType) and hasattr(module, "__all__"):
            yield module


def _items() -> Iterator[tuple[str, Any]]:
    for module in modules():
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for path in re.findall(r"^::: (\S+)$", API.read_text(encoding="utf-8"), re.MULTILINE):
        module, _, name = path.rpartition(".")
        yield path, getattr(importlib.import_module(module), name)
    from hqc.compat.api import names, resolve

    for name, _ in names():
        try:
            yield name.replace("horizon_plugin_pytorch", "hqc"), resolve(name)
        except (ImportError, AttributeError):
            continue


@functools.cache
def surface() -> dict[str, Public]:
    """Every public callable that is not an error class or a type alias, once, by its first name."""
    found: dict[str, Public] = {}
    seen: set[int] = set()
    for path, item in _items():
        if (
            id(item) in seen
            or isinstance(item, (ModuleType, AbsentModule, _Absent))
            or not callable(item)
            or path in NOT_CALLED
        ):
            continue
        seen.add(id(item))
        if typing.get_origin(item) is not None or not getattr(item, "__module__", "").startswith("hqc"):
            continue
        if not inspect.isclass(item):
            if "." not in getattr(item, "__qualname__", ""):  # a method on the plugin's page is one of its class
                found[path] = Public(path, item)
        elif not issubclass(item, BaseException):
            if not issubclass(item, enum.Enum):
                found[path] = Public(path, item)
            if path in OTHERS_PROTOCOL:
                continue
            for name, method in inspect.getmembers(item, inspect.isfunction):
                ours = getattr(method, "__module__", "").startswith("hqc")
                if ours and (not name.startswith("_") or name == "__call__"):
                    found[f"{path}.{name}"] = Public(f"{path}.{name}", method, item)
    return found


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that have a name of their own, without `self`."""
    try:
        found = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return {}
    return {
        name: each
        for name, each in found.items()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and name not in ("self", "cls")
    }


def fitting(function: Callable[..., Any], name: str) -> Any:
    """Something that parameter `name` takes."""
    if name in BY_NAME:
        return BY_NAME[name]()
    annotation = annotations_of(function).get(name, Any)
    simple = (None, "x", 1, nn.Identity(), image(), np.zeros(3, np.float32), _graph(), (), {}, len)
    classes = [each for each in (annotation, *typing.get_args(annotation)) if isinstance(each, type) and each is not Any]
    made = [found for cls in classes if (found := example_of(cls)) is not None]
    return next((each for each in (*made, *simple) if takes(annotation, each)), None)


def _graph() -> hqc.ir.Graph:
    return compiled().graph.clone()


def _qat() -> nn.Module:
    from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx

    hqc.set_march("bayes")
    return prepare_qat_fx(Stubbed(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=image())


@functools.cache
def _explanation() -> Any:
    return hqc.explain(Net().eval(), image(), march="bayes")


@functools.cache
def _program() -> Any:
    return compiled().runner.program((image(),))[1]


def _conv() -> Any:
    return next(node for node in _graph().nodes if node.op.name == "conv2d")


BY_NAME: dict[str, Callable[[], Any]] = {
    "model": lambda: Net().eval(),
    "module": lambda: Net().eval(),
    "float_model": lambda: Net().eval(),
    "model1": lambda: Net().eval(),
    "model2": lambda: Net().eval(),
    "example_inputs": image,
    "inputs": image,
    "input": image,
    "x": image,
    "calibration_data": lambda: [image()],
    "march": lambda: MARCHES[2],
    "prepared": _qat,
    "graph_module": _qat,
    "graph": _graph,
    "node": _conv,
    "boxes": lambda: torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 2.0]]),
    "scores": lambda: torch.tensor([0.5, 0.25]),
    "iou_threshold": lambda: 0.5,
    "path": lambda: "out",
    "out_dir": lambda: "out",
    "name": lambda: "name",
    "op": lambda: "relu",
    "text": lambda: "canonicalize",
}
"""What a parameter of this name takes where its annotation says too little."""


def example_of(cls: type) -> Any:
    """An example of a public class that was not made by its constructor alone; None where there is none."""
    if getattr(cls, "_is_protocol", False):
        return None
    for kind, make in EXAMPLES:
        if issubclass(kind(), cls):
            return make()
    if issubclass(cls, enum.Enum):
        return next(iter(cls))
    required = [name for name, each in parameters(cls).items() if each.default is each.empty]
    try:
        given = {name: fitting(cls, name) for name in required}
        annotations = annotations_of(cls, everywhere=True)
        fits = all(misfit(name, annotations.get(name, Any), value) is None for name, value in given.items())
        return cls(**given) if fits and not inspect.isabstract(cls) else None
    except (HqcError, TypeError, ValueError):
        return None


EXAMPLES: tuple[tuple[Callable[[], type], Callable[[], Any]], ...] = (
    (lambda: hqc.Compiled, compiled),
    (lambda: hqc.Explanation, _explanation),
    (lambda: hqc.LoadedModel, lambda: compiled().without_torch()),
    (lambda: hqc.ir.Graph, _graph),
    (lambda: hqc.ir.Node, _conv),
    (lambda: hqc.ir.Value, lambda: _conv().results[0]),
    (lambda: hqc.backends.bpu.Program, _program),
)


class Raising:
    """Raises where anybody looks at it: what it raises is its own, and passes through."""

    def __repr__(self) -> str:
        raise UserError("repr")

    __str__ = __repr__

    def __len__(self) -> int:
        raise UserError("len")

    def __bool__(self) -> bool:
        raise UserError("bool")

    def __iter__(self) -> Iterator[Any]:
        raise UserError("iter")


def is_one_sentence(error: BaseException, public: Public, given: dict[str, Any]) -> bool:
    """True for what a public call may raise: `hqc.errors`, what the user's own code raises, and plain refusals at the edge.

    Those are Python's about arguments that are missing, a TypeError or ValueError that hqc raises on purpose, and what torch says of
    tensors in a layer's `forward`.
    """
    if isinstance(error, (HqcError, UserError)):
        return True
    annotations = annotations_of(public.call, everywhere=True)
    if any(callable(value) and takes(annotations.get(name, Any), value) for name, value in given.items()):
        return True  # the user's own code ran
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, (TypeError, ValueError, NotImplementedError)):
        own = not any("/hqc/" in each.filename and not each.filename.endswith("hqc/checked.py") for each in frames)
        if own or (frames[-1].line or "").startswith("raise "):
            return True
    words = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
    return public.name.endswith((".forward", ".__call__")) and isinstance(error, words)


def odd_call(public: Public, generator: random.Random) -> Callable[[], object] | None:
    """A call with something odd for one parameter, or for all that are required; None where there is nothing to call."""
    target, names = public.target(), parameters(public.call)
    if target is None or not names:
        return None
    required = [name for name, each in names.items() if each.default is each.empty]
    chosen = generator.choice([*names, ""]) if required else generator.choice([*names])
    given = {name: fitting(public.call, name) for name in required}
    given |= {name: _odd(generator) for name in ([chosen] if chosen else required)}
    by_position = [given.pop(name) for name in names if name in given and names[name].kind is inspect.Parameter.POSITIONAL_ONLY]

    def call() -> object:
        try:
            return target(*by_position, **given)
        except Exception as error:
            if not is_one_sentence(error, public, given):
                raise
            raise InputError(f"{type(error).__name__} from {public.name}") from error
        finally:
            hqc.set_march("bayes")

    return call


def _odd(generator: random.Random) -> Any:
    draw = generator.random()
    return Raising() if draw < 0.1 else odd_tensor(generator) if draw < 0.35 else odd_value(generator)
