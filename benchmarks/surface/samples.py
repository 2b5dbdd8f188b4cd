"""Samples of torch's test databases: `module_db` (modules with constructor and inputs) and `op_db` (functions with inputs).

Every sample becomes a model whose inputs are the sample's tensors; everything else (sizes, flags, None, constructors' arguments)
is part of the model. Losses are left out: nobody deploys them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

OP_NAMES = tuple((Path(__file__).parent / "op_db_names.txt").read_text(encoding="utf-8").split())
OP_SAMPLES = 3  # of each function


@dataclass(frozen=True)
class Sample:
    """One model with its inputs. `name`: `nn.Conv1d/3` or `cumsum/0`; `make`: builds the model (it may fail)."""

    name: str
    make: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]


class _Call(nn.Module):
    """A call with its constant arguments in place."""

    def __init__(self, call: Callable[..., Any], leaves: list[Any], spec: Any) -> None:
        super().__init__()
        self.call = call  # a module registers itself
        self.leaves = leaves
        self.spec = spec

    def apply_to(self, *tensors: Any) -> Any:
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, _Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.call(*args, **kwargs)


class _Tensor:
    """Place of an input."""


def _with_inputs(count: int) -> type[_Call]:
    """A model class whose forward names its inputs, as users write them."""
    names = ", ".join(f"x{i}" for i in range(count))
    scope: dict[str, Any] = {}
    exec(f"def forward(self, {names}):\n    return self.apply_to({names})", scope)
    return type(f"Call{count}", (_Call,), {"forward": scope["forward"]})


_CLASSES = [_with_inputs(count) for count in range(1, 9)]


def model_of(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, tuple[Any, ...]]:
    """`call(*args, **kwargs)` as a model of its tensors; `ValueError` when there are none, or too many."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = tuple(leaf.detach().clone() for leaf in leaves if isinstance(leaf, torch.Tensor))
    if not 1 <= len(tensors) <= len(_CLASSES):
        raise ValueError(f"{len(tensors)} tensors")
    places = [_Tensor() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return _CLASSES[len(tensors) - 1](call, places, spec).eval(), tensors


def module_samples() -> Iterator[Sample]:
    """All samples of `module_db` in float32 on the CPU, without losses."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        if info.name.endswith("Loss"):
            continue
        torch.manual_seed(0)
        inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
        for index, item in enumerate(inputs):
            if item.forward_input is not None:
                yield Sample(f"{info.name}/{index}", _module_maker(info.module_cls, item))


def _module_maker(cls: type[nn.Module], item: Any) -> Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        torch.manual_seed(0)
        constructor, forward = item.constructor_input, item.forward_input
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = cls(*constructor.args, **constructor.kwargs)
            if "Lazy" in cls.__name__:  # a lazy module takes its sizes from its first input
                module(*forward.args, **forward.kwargs)
        return model_of(module, forward.args, forward.kwargs)

    return make


def op_samples(names: tuple[str, ...] = OP_NAMES, count: int = OP_SAMPLES) -> Iterator[Sample]:
    """The first `count` samples of each function of `op_db` in `names`, in float32 on the CPU."""
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, list[Any]] = {}
    for info in op_db:
        found.setdefault(info.name, []).append(info)
    for name in names:
        for info in found.get(name, []):
            dtype = torch.float32 if torch.float32 in info.dtypes else torch.int64 if torch.int64 in info.dtypes else torch.bool
            torch.manual_seed(0)
            inputs = info.sample_inputs_func(info, "cpu", dtype, False)
            variant = f"{name}.{info.variant_test_name}" if info.variant_test_name else name
            for index, item in zip(range(count), inputs, strict=False):
                yield Sample(f"{variant}/{index}", _op_maker(info, item))


def _operator(name: str, x: torch.Tensor, *args: Any) -> Any:
    return getattr(x, name)(*args)


def _op_maker(info: Any, item: Any) -> Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        call = info.op
        if info.name.startswith("__"):  # an operator: asked of the tensor, as Python does
            call = functools.partial(_operator, info.name)
        return model_of(call, (item.input, *item.args), dict(item.kwargs))

    return make
