"""What the user asked for: one frozen object that every entry point and the command line pass on. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hqc.errors import InputError, OverrideError, PassError
from hqc.march import get_spec
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext
from hqc.passes.overrides import Override, parse_hybrid_dict

Form = Literal["ptq", "qat", "calibration"]
"""`ptq`: post-training quantization (`hqc.compile`): stubs are put in where the BPU reads a graph input, and convolutions that end
a BPU segment emit int32. `qat`: a model to train; `calibration`: a model that watches; in both the qconfigs say where values are
observed, and the stubs are the user's."""
CatPolicy = Literal["output", "largest"]
ConflictPolicy = Literal["error", "requantize"]
PIPELINES = ("prepare", "deploy")


@dataclass(frozen=True)
class Edit:
    """`item` (a pass, or pipeline text) goes behind the last pass called `after`, or before the first called `before`.

    `pipeline`: `prepare` (explain runs the same one) or `deploy`; empty means each of them that has such a pass.
    """

    item: Pass | str
    after: str = ""
    before: str = ""
    pipeline: str = ""

    def __post_init__(self) -> None:
        if bool(self.after) == bool(self.before):
            raise PassError("an edit of a pipeline names one pass: after='fuse-conv' or before='fuse-conv'")
        if self.pipeline and self.pipeline not in PIPELINES:
            raise PassError(f"there is no pipeline {self.pipeline!r}; there are {' and '.join(PIPELINES)}")
        given: object = self.item
        if not isinstance(given, (Pass, str)):
            what = "the class; give an instance of it" if isinstance(given, type) else type(given).__name__
            raise PassError(f"an edit takes a pass such as MyPass(), or pipeline text, got {what}")

    @property
    def anchor(self) -> str:
        """Name of the pass that says where."""
        return self.after or self.before


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides the plan and the deployed program, besides the model and its shapes.

    `hybrid`: operations the BPU cannot run go to the CPU; without it they are an error. `overrides`: the user's placement wishes.
    `qconfig`: a torch `qconfig_dict` (None: scales by squared error for `ptq`, nothing otherwise). `optimize_graph`: members of a
    shared-scale group are trained with one scale. `keep_batch_norm`: QAT layers keep the batch norm behind them. `min_macs`, `min_nodes`,
    `horizontal_merge`: options of `partition`. `cat_policy`: of `unify-cat-scales`; `conflict_policy`: of `propagate-scales`.
    `edits`: passes of the user. `concrete_args`: arguments of forward that are constants, with their values; `leaf_modules`: modules
    (classes or paths) that run as they are, on the CPU; both as for `trace`.
    `nearest`: after post-training quantization what is ours to fill (tables, biases) makes results round to nearest on marches that
    floor; training never does.
    `stub_inputs`: stubs are put in where the BPU reads a graph input in every form, for models that cannot have stubs of their own.
    Errors: `MarchError`, `OverrideError`, `InputError`.
    """

    march: str
    form: Form = "ptq"
    hybrid: bool = True
    overrides: tuple[Override, ...] = ()
    qconfig: Mapping[str, Any] | None = None
    optimize_graph: bool = False
    keep_batch_norm: bool = False
    min_macs: float = 0.0
    min_nodes: int = 0
    horizontal_merge: bool = False
    cat_policy: CatPolicy = "output"
    conflict_policy: ConflictPolicy = "requantize"
    edits: tuple[Edit, ...] = ()
    concrete_args: Mapping[str, Any] | None = None
    leaf_modules: tuple[Any, ...] = ()
    stub_inputs: bool = False
    nearest: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "march", get_spec(self.march).name)
        object.__setattr__(self, "edits", tuple(listed(self.edits, "edits", "what hqc.workflow.pipelines.edit(...) returns")))
        object.__setattr__(self, "leaf_modules", tuple(listed(self.leaf_modules, "leaf_modules", "classes, paths or modules")))
        object.__setattr__(self, "concrete_args", named(self.concrete_args, "concrete_args", "arguments of forward"))
        for name, kind in (("form", Form), ("cat_policy", CatPolicy), ("conflict_policy", ConflictPolicy)):
            value, known = getattr(self, name), get_args(kind)
            if not isinstance(value, str) or value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.overrides and not self.hybrid:
            raise OverrideError("hybrid_dict places operations on the CPU and needs hybrid=True")
        given_qconfig(self.qconfig)
        if not all(isinstance(each, Edit) for each in self.edits):
            raise InputError("edits takes what hqc.workflow.pipelines.edit(after=..., item=...) returns")
        for name in ("hybrid", "optimize_graph", "keep_batch_norm", "horizontal_merge", "stub_inputs"):
            if not isinstance(getattr(self, name), (bool, int)):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r:.80}")
        for name in ("min_macs", "min_nodes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(f"{name} must be a number from 0, got {value!r}")

    @classmethod
    def of(cls, march: str, *, hybrid_dict: Mapping[str, Sequence[Any]] | None = None, **options: Any) -> CompileOptions:
        """The options with a `hybrid_dict` as users write it; `OverrideError` for one that cannot be read."""
        return cls(march, overrides=parse_hybrid_dict(hybrid_dict), **options)

    @property
    def spec(self) -> MarchSpec:
        """The march's description."""
        return get_spec(self.march)

    @property
    def rounds_to_nearest(self) -> bool:
        """What `settle-rounding` does where the march floors."""
        return self.nearest and self.form == "ptq"

    def on(self, march: str) -> CompileOptions:
        """The same options for another march."""
        return replace(self, march=march)

    def context(self, **more: Any) -> PassContext:
        """The context that passes run in; `more`: fields that come from the model (`plan`, `qconfigs`, ...)."""
        return PassContext(self.spec, hybrid=self.hybrid, overrides=self.overrides, **more)


def listed(value: Any, name: str, what: str) -> list[Any]:
    """A list that the user gave; `InputError` says what argument `name` takes a list of."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{name} takes a list of {what}, got {value!r:.80}")
    try:
        return list(value)
    except TypeError:  # arrays without axes have an __iter__ that refuses
        raise InputError(f"{name} takes a list of {what}, got {value!r:.80}") from None


def named(value: Any, name: str, what: str) -> Mapping[str, Any] | None:
    """A dict by name that the user gave, or None; `InputError` says what the keys of argument `name` are."""
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise InputError(f"{name} takes a dict whose keys are {what}, got {value!r:.80}")
    return value


def given_qconfig(value: Any) -> Mapping[str, Any] | None:
    """A `qconfig_dict`; None for an empty one. `InputError` for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"qconfig_dict must be a dict such as {{'': qconfig}}, got {type(value).__name__}")
    return value or None


def custom_config(value: Any, name: str, known: Sequence[str], model: Any) -> list[str]:
    """The attributes to preserve that a custom config dict of torch's workflow names; `InputError` for anything else in it."""
    config = named(value, name, "texts") or {}
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise InputError(f"{name} has unknown keys {', '.join(unknown)}; known: {', '.join(known)}")
    attributes = listed(config.get("preserved_attributes", ()), f"preserved_attributes of {name}", "names of attributes")
    for attribute in attributes:
        if not isinstance(attribute, str) or not hasattr(model, attribute):
            raise InputError(f"preserved_attributes names {attribute!s:.80}, which the model does not have")
    return attributes
