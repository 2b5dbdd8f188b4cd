"""Eager mode: the calls of models that put stubs and FloatFunctionals everywhere, on the passes that FX mode runs.

`prepare_qat` and `prepare_calibration` plan the model as `prepare_*_fx` do, from the `qconfig` attributes of its modules. Where its code
can only be traced with shapes, they wait for the first forward. With `inplace=True` the given model object becomes the prepared one: an
instance of its own class still, with its methods. What is fused is the plan's business: `fuse_modules` checks names and changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from hqc.checked import checked
from hqc.errors import InputError
from hqc.march import get_march
from hqc.near_names import suggest
from hqc.quantization.qat_mode import keeps_batch_norm
from hqc.workflow.convert import convert_fx
from hqc.workflow.deferred import DeferredModel, prepare_or_defer
from hqc.workflow.model_copy import copy_model
from hqc.workflow.options import CompileOptions
from hqc.workflow.prepared import ObservedGraphModule, become, with_methods


@checked
def fuse_known_modules(mod_list: Sequence[nn.Module], *args: Any, **kwargs: Any) -> list[nn.Module]:
    """A `fuser_func` for `fuse_modules` (hqc's and torch's): the modules as they are, for the plan to fuse."""
    del args, kwargs
    return list(mod_list)


@checked
def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[Any],
    inplace: bool = False,
    fuser_func: Callable[..., Any] = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model (a copy unless `inplace`), after a check that the modules exist; preparing fuses them, and more where the plan can.

    `modules_to_fuse`: names of modules, or a list of such lists. The other arguments are accepted and without effect. `InputError` for
    a name that the model does not have.
    """
    del fuser_func, fuse_custom_config_dict
    groups = [modules_to_fuse] if all(isinstance(each, str) for each in modules_to_fuse) else modules_to_fuse
    known = dict(model.named_modules())
    for name in (name for group in groups for name in group):
        if name not in known:
            raise InputError(f"fuse_modules: the model has no module {name!r}{suggest(str(name), filter(None, known))}")
    return model if inplace else copy_model(model)


@checked
def prepare_qat(
    model: nn.Module,
    mapping: Mapping[Any, Any] | None = None,
    inplace: bool = False,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    qconfig_dict: Mapping[str, Any] | None = None,
    example_inputs: Any = None,
) -> nn.Module:
    """The model with fake quants where the deployed model quantizes, ready to train; `inplace`: the object that was given.

    `model`: a float model whose modules have `qconfig` attributes, or one from `prepare_calibration` (its scales are carried over).
    `mapping` must be None: which layers train quantized is the plan's. The other arguments are those of `prepare_qat_fx`.
    """
    options = _options("qat", mapping, optimize_graph, hybrid, hybrid_dict, qconfig_dict, model)
    return _prepared(model, options, inplace, example_inputs)


@checked
def prepare_calibration(
    model: nn.Module,
    inplace: bool = False,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    qconfig_dict: Mapping[str, Any] | None = None,
    example_inputs: Any = None,
) -> nn.Module:
    """As `prepare_qat`, for calibration: use a calibration qconfig and run a few forwards in eval mode."""
    options = _options("calibration", None, optimize_graph, hybrid, hybrid_dict, qconfig_dict, model)
    return _prepared(model, options, inplace, example_inputs)


@checked
def convert(
    module: nn.Module,
    mapping: Mapping[Any, Any] | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The fixed-point model of a prepared and calibrated (or trained) one, as `convert_fx`; `inplace`: the object that was given."""
    _refuse_mapping("convert", mapping)
    converted = convert_fx(module, convert_custom_config_dict, remove_qconfig)
    with_methods(converted, module)
    made: nn.Module = become(module, converted) if inplace else converted
    return made


def _options(
    form: str,
    mapping: Mapping[Any, Any] | None,
    optimize_graph: bool,
    hybrid: bool,
    hybrid_dict: Mapping[str, Sequence[Any]] | None,
    qconfig_dict: Mapping[str, Any] | None,
    model: nn.Module,
) -> CompileOptions:
    _refuse_mapping("prepare_qat", mapping)
    if not isinstance(model, nn.Module):
        raise InputError(f"prepare needs a torch.nn.Module, got {type(model).__name__}")
    return CompileOptions.of(
        get_march(),
        form=form,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        qconfig=qconfig_dict,
        optimize_graph=optimize_graph,
        keep_batch_norm=form == "qat" and keeps_batch_norm(),
    )


def _refuse_mapping(call: str, mapping: Mapping[Any, Any] | None) -> None:
    if mapping:
        raise InputError(
            f"{call}: mapping must be None; which layers train quantized is decided by the plan of the whole model"
        )


def _prepared(model: nn.Module, options: CompileOptions, inplace: bool, example_inputs: Any) -> nn.Module:
    if isinstance(model, DeferredModel):
        raise InputError("the model is prepared already; run a forward before it is prepared again")
    with _own_qconfigs(model):
        result: nn.Module = prepare_or_defer(model, options, example_inputs, inplace=inplace)
    if isinstance(result, DeferredModel):
        return result
    with_methods(result, model)
    made: nn.Module = become(model, result) if inplace else result
    return made


@contextlib.contextmanager
def _own_qconfigs(model: nn.Module) -> Iterator[None]:
    """A calibrated model is prepared for training from its float model, with the qconfigs that its own modules have by now."""
    if not isinstance(model, ObservedGraphModule):
        yield
        return
    before = model.preparation
    updated = copy_model(before.float_model)
    places = dict(updated.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        if "qconfig" in vars(module) and path in places:
            places[path].qconfig = module.qconfig
    model.preparation = dataclasses.replace(before, float_model=updated)
    try:
        yield
    finally:
        model.preparation = before
