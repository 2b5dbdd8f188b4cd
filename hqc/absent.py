"""Names of the reference that hqc does not have: they can be imported, and say in one sentence what to do instead when used.

Scripts import whole vocabularies and use a part of them, so a name fails where it is used, not where it is imported.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from hqc.errors import AbsentNameError

NEXT_GENERATION = "belongs to the next chip generation (J6), which hqc has no march for; for X2..X5 use "
_PREPARE = f"{NEXT_GENERATION}hqc.quantization.prepare_qat_fx"
_SETTERS = f"{NEXT_GENERATION}a qconfig_dict with hqc.quantization.get_default_qat_qconfig()"
_HBDK4 = f"{NEXT_GENERATION}hqc.utils.onnx_helper.export_to_onnx and hb_mapper"
_PROFILER = f"{NEXT_GENERATION}hqc.utils.quant_profiler"

ABSENT_MODULES: dict[str, str] = {
    "hqc.quantization.prepare": _PREPARE,
    "hqc.quantization.qconfig_setter": _SETTERS,
    "hqc.quantization.qconfig_template": _SETTERS,
    "hqc.quantization.hbdk4": _HBDK4,
    "hqc.fx.jit_scheme": f"{NEXT_GENERATION}hqc.quantization.prepare_qat_fx, which traces by itself",
    "horizon_plugin_profiler": _PROFILER,
    "horizon_plugin_profiler.bc_editor": _PROFILER,
    "horizon_plugin_profiler.bc_editor.bc_editor": _PROFILER,
}
"""Modules all of whose names are absent, and the sentence that follows a name."""

ABSENT: dict[str, str] = {
    "hqc.quantization.QconfigSetter": _SETTERS,
    "hqc.quantization.PrepareMethod": _PREPARE,
    "hqc.quantization.prepare": _PREPARE,
    "hqc.quantization.hbdk4": _HBDK4,
}
"""Names in modules that hqc does have."""


class _Absent(type):
    """The class of stand-ins: whatever is asked of one, it refuses."""

    _sentence: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise AbsentNameError(cls._sentence)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AbsentNameError(cls._sentence)


def absent(path: str, sentence: str) -> Any:
    """A stand-in for the name at `path`. `sentence`: what follows the name in the error, without a full stop."""
    name = path.rpartition(".")[2]
    return _Absent(name, (), {"_sentence": f"{path} {sentence}", "__doc__": sentence, "__module__": path.rpartition(".")[0]})


def find_absent(module: str, name: str) -> Any:
    """The stand-in for a name in a module of hqc; None for one that is simply unknown."""
    path = f"{module}.{name}"
    sentence = ABSENT.get(path)
    return None if sentence is None else absent(path, sentence)


class AbsentModule(ModuleType):
    """A module all of whose names are absent; where its own name is a function in the reference, calling it refuses too."""

    def __init__(self, name: str) -> None:
        super().__init__(name, ABSENT_MODULES[name])
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return absent(f"{self.__name__}.{name}", ABSENT_MODULES[self.__name__])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AbsentNameError(f"{self.__name__} {ABSENT_MODULES[self.__name__]}")
