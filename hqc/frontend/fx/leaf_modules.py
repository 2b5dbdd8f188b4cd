"""Which modules a trace does not open, and which ones are called by their methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import FunctionType

from torch import nn

from hqc.checked import explained
from hqc.errors import InputError
from hqc.frontend.fx.torch_ao import DEQUANT_STUBS, FUNCTIONALS, QUANT_STUBS

LeafSpec = type[nn.Module] | str | nn.Module
_HARMLESS_OVERRIDES = {"__init__", "__repr__", "extra_repr", "reset_parameters", "_load_from_state_dict"}


@explained
def leaf_paths(model: nn.Module, leaf_modules: Sequence[LeafSpec]) -> list[type[nn.Module] | str]:
    """`leaf_modules` with instances replaced by their paths in `model`, so that they hold for a copy of it too."""
    if isinstance(leaf_modules, (str, type, nn.Module)) or not isinstance(leaf_modules, Iterable):
        raise InputError(f"leaf_modules takes a list of classes, paths or modules, got {leaf_modules!r:.80}")
    leaf_modules = list(leaf_modules)
    strange = [item for item in leaf_modules if not isinstance(item, (str, type, nn.Module))]
    if strange:
        raise InputError(f"leaf_modules takes classes, paths or modules, got {strange[0]!r:.80}")
    paths = {id(module): name for name, module in model.named_modules()}
    missing = [item for item in leaf_modules if isinstance(item, nn.Module) and id(item) not in paths]
    if missing:
        raise InputError(f"leaf_modules has a {type(missing[0]).__name__} that is not a submodule of the model")
    return [paths[id(item)] if isinstance(item, nn.Module) else item for item in leaf_modules]


def is_stub(module: nn.Module) -> bool:
    """True for torch's quantization stubs; hqc's own declare `_hqc_leaf`."""
    return isinstance(module, (*QUANT_STUBS, *DEQUANT_STUBS))


def is_functional(module: nn.Module) -> bool:
    """True for FloatFunctional and its kin: modules whose methods, not `forward`, are the ops."""
    cls = type(module)
    return bool(getattr(cls, "_hqc_functional", False)) or isinstance(module, FUNCTIONALS)


def is_library_module(module: nn.Module) -> bool:
    """True when torch.nn's own code runs in `forward`: a torch.nn class, or a subclass that only has a constructor."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
            return not issubclass(cls, nn.Sequential) and cls is not nn.Module
        if any(
            isinstance(item, (FunctionType, property)) and name not in _HARMLESS_OVERRIDES for name, item in vars(cls).items()
        ):
            return False
    return False


def functional_method_names(cls: type) -> list[str]:
    """Names of the methods of a functional module that are operations."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base is nn.Module:
            break
        names.update(
            (name, None)
            for name, item in vars(base).items()
            if isinstance(item, FunctionType) and not name.startswith("_") and name not in ("forward", "extra_repr")
        )
    return list(names)
