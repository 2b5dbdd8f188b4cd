"""Models that can only be planned with shapes and were prepared without: they wait for their first forward.

Until then such a model is the float model, with the same parameters; `set_fake_quantize` and `load_state_dict` are remembered.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hqc.errors import InputError, LoweringError, SupportError, TraceError
from hqc.frontend.fx.copying import deep_copy
from hqc.quantization.state import FakeQuantState, Stateful
from hqc.workflow.arguments import as_tuple
from hqc.workflow.model_copy import copy_model
from hqc.workflow.options import CompileOptions
from hqc.workflow.planning import given_model
from hqc.workflow.prepared import USER_CLASS, ObservedGraphModule, become, user_class_of, with_methods
from hqc.workflow.states import part_of_state

logger = logging.getLogger("hqc")


def prepare_or_defer(model: nn.Module, options: CompileOptions, example_inputs: Any, *, inplace: bool = False) -> Any:
    """The prepared model; where its code or one of its operations needs shapes that nobody gave, a model that waits for them.

    `inplace`: the waiting model is `model` itself.
    """
    from hqc.workflow.prepare import prepare

    try:
        return prepare(model, options, example_inputs)
    except (TraceError, LoweringError) as error:
        if as_tuple(example_inputs) is not None or isinstance(model, ObservedGraphModule):
            raise
        logger.info("%s; the model is planned at its first forward", error)
        model, _ = given_model(model)
        return _defer(model if inplace else copy_model(model), _Waiting(options))


class _Waiting:
    """What was asked of a model that waits."""

    def __init__(self, options: CompileOptions) -> None:
        self.options = options
        self.state: FakeQuantState | None = None
        self.loads: list[tuple[dict[str, Any], bool]] = []


class DeferredModel(Stateful):
    """Mixin of a model that waits for its first forward."""

    _waiting: _Waiting

    def __reduce__(self) -> Any:
        return _restored, (self.__dict__[USER_CLASS], dict(self.__dict__))

    def set_state(self, state: FakeQuantState) -> None:
        self._waiting.state = state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        settle(self, args, kwargs)
        return self(*args, **kwargs)  # type: ignore[operator]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Remembered, and done when the model is planned; a state that does not fit is refused then."""
        del assign
        self._waiting.loads.append((part_of_state(state_dict, state_dict), strict))
        return nn.modules.module._IncompatibleKeys([], [])


def settle(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> ObservedGraphModule:
    """Plan a waiting model for inputs of these shapes: the object becomes the prepared model. Where that fails it goes on waiting."""
    from hqc.workflow.prepare import prepare

    waiting: _Waiting = model._waiting
    bound = inspect.signature(user_class_of(model).forward).bind(model, *args, **(kwargs or {}))
    before = dict(model.named_parameters())
    float_model = copy.copy(model)
    float_model.__class__ = user_class_of(model)
    for name in (USER_CLASS, "_waiting"):
        float_model.__dict__.pop(name)
    result = prepare(float_model, waiting.options, bound.args[1:])
    _refuse_under_ddp(before, result)
    _keep_parameters(before, result)
    for state_dict, strict in waiting.loads:
        result.load_state_dict(state_dict, strict=strict)
    if waiting.state is not None:
        for module in result.modules():
            if isinstance(module, Stateful):
                module.set_state(waiting.state)
    settled: ObservedGraphModule = become(model, with_methods(result, model))
    return settled


def settled_copy(model: nn.Module, args: tuple[Any, ...]) -> nn.Module:
    """The model; of one that waits, a copy planned for inputs of these shapes."""
    return settle(deep_copy(model), args) if isinstance(model, DeferredModel) else model


def refuse_waiting(model: Any, what: str) -> None:
    """`InputError` for a model that has no plan yet."""
    if isinstance(model, DeferredModel):
        raise InputError(
            f"{what}: the model has not run since it was prepared, and is planned at its first forward; run a forward first, or pass "
            "example_inputs when preparing it"
        )


def _defer(model: nn.Module, waiting: _Waiting) -> nn.Module:
    user = user_class_of(model)
    model.__class__ = type(user.__name__, (DeferredModel, user), {"__module__": user.__module__})
    model.__dict__.update({USER_CLASS: user, "_waiting": waiting})
    return model


def _refuse_under_ddp(before: Mapping[str, nn.Parameter], result: nn.Module) -> None:
    """DistributedDataParallel has taken its list of parameters already."""
    changed = sorted(set(before) ^ {name for name, _ in result.named_parameters()})
    if changed and getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
        raise SupportError(
            f"the model is planned at its first forward, where parameters appear or vanish ({', '.join(changed[:5])}), and it is in "
            "DistributedDataParallel already; pass example_inputs when preparing it"
        )


def _restored(user: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    model = user.__new__(user)
    model.__dict__.update(state)
    return _defer(model, state["_waiting"])


def _keep_parameters(before: Mapping[str, nn.Parameter], result: nn.Module) -> None:
    """Let the planned model use the parameters that were there before, so that an optimizer made before the first forward goes on."""
    appeared = []
    for path, parameter in list(result.named_parameters()):
        old = before.get(path)
        if old is None or old.shape != parameter.shape:
            appeared.append(path)
            continue
        old.data = parameter.data
        owner, _, name = path.rpartition(".")
        result.get_submodule(owner)._parameters[name] = old
    if appeared:
        logger.warning(
            "the model was planned at its first forward, and has parameters that were not there before (%s); make the optimizer after "
            "the first forward, or pass example_inputs when preparing the model",
            ", ".join(appeared[:5]),
        )
