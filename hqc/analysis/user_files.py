"""What the command line names: a model in a Python file, shapes of inputs, files with calibration data, places to write to."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hqc.analysis.onnx_arguments import is_onnx_file, shaped_inputs, sizes
from hqc.errors import HqcError, InputError, PassError
from hqc.near_names import suggest
from hqc.passes.base import Pass
from hqc.passes.pipeline_text import parse_passes
from hqc.passes.registry import register_pass
from hqc.workflow.arguments import as_tuple
from hqc.workflow.onnx_files import file_inputs
from hqc.workflow.options import Edit
from hqc.workflow.pipelines import edit

Array = npt.NDArray[Any]


def model_and_inputs(spec: str, shapes: Sequence[str]) -> tuple[Any, Any]:
    """The model that `FILE.py:NAME` or `FILE.onnx` names, and inputs for it: of the given shapes, or the file's own."""
    if is_onnx_file(spec):
        return spec, tuple(map(torch.from_numpy, file_inputs(spec, shaped_inputs(shapes))))
    model, default = load_model(spec)
    return model, example_inputs(shapes, default)


def load_model(spec: str) -> tuple[nn.Module, Any]:
    """`FILE.py:NAME` -> (module, example inputs or None). NAME is a module, or a class or function without required arguments.

    A function may return the module or `(module, example_inputs)`; the file may define `example_inputs` beside it. `InputError`
    with the user's own line for whatever the file raises.
    """
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise InputError(f"give the model as FILE.py:NAME or FILE.onnx, got {spec}")
    module = _import(Path(path))
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{path} has no {name}{suggest(name, known)}; it defines {', '.join(known) or 'no class or function'}")
    found = getattr(module, name)
    if not isinstance(found, nn.Module) and not callable(found):
        raise InputError(f"{name} in {path} is a {type(found).__name__}, not a torch.nn.Module, a class or a function")
    built = found if isinstance(found, nn.Module) else _guarded(found, path, f"{name}() in {path} failed")
    inputs = getattr(module, "example_inputs", None)
    if isinstance(built, tuple) and len(built) == 2:
        built, inputs = built
    if not isinstance(built, nn.Module):
        raise InputError(f"{name} in {path} gives a {type(built).__name__}, not a torch.nn.Module")
    return built, _guarded(inputs, path, f"example_inputs() in {path} failed") if callable(inputs) else inputs


def load_passes(file: str) -> None:
    """Run a Python file whose `@register_pass` classes then have a place in pipeline text. `InputError` for what it raises."""
    _import(Path(file))


def load_edit(spec: str) -> Edit:
    """`FILE.py:NAME`, `FILE.py:NAME{option=value}`, with `@after=PASS` or `@before=PASS` behind it -> an edit of the pipelines.

    NAME is a pass class (with default options, or those in braces) or a pass; without a place it goes where its stage is reached.
    """
    text, _, place = spec.partition("@")
    where, _, anchor = place.partition("=")
    if place and (where not in ("after", "before") or not anchor):
        raise InputError(f"give the place of a pass as @after=PASS or @before=PASS, got @{place}")
    text, brace, options = text.partition("{")
    path, _, name = text.rpartition(":")
    if not path or not name:
        raise InputError(f"give a pass as FILE.py:NAME, got {spec}")
    found = getattr(_import(Path(path)), name, None)
    if isinstance(found, type) and issubclass(found, Pass):
        try:
            (item,) = parse_passes(f"{register_pass(found).name}{brace}{options}")
        except PassError as error:
            raise InputError(f"{name} in {path}: {error}") from error
    elif isinstance(found, Pass) and not brace:
        item = found
    else:
        raise InputError(f"{name} in {path} is no pass; a pass is a frozen dataclass derived from hqc.passes.Pass")
    return edit(item=item, after=anchor if where == "after" else "", before=anchor if where == "before" else "")


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    name = _module_name(file.stem)
    module_spec = importlib.util.spec_from_file_location(name, file)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"{file} is not a Python file; give the model as FILE.py:NAME")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    folder = str(file.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loader = module_spec.loader
    _guarded(lambda: loader.exec_module(module), str(file), f"{file} cannot be imported")
    return module


def _module_name(stem: str) -> str:
    """The file's name, unless a module that others import has it (the user's file may be called `types.py` or `torch.py`)."""
    taken = stem in sys.stdlib_module_names or hasattr(sys.modules.get(stem), "__path__")
    return f"model_file_{stem}" if taken else stem


def _guarded(work: Callable[[], Any], path: str, failure: str) -> Any:
    """Run the user's code; whatever it raises becomes one sentence with the last line of the user's file on the way there."""
    try:
        return work()
    except HqcError:
        raise
    except SyntaxError as error:
        raise InputError(f"{failure}: {error.filename or path}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == Path(path).name
        ]
        where = f"{path}:{lines[-1]}: " if lines else ""
        text = " ".join(str(error).split())
        raise InputError(f"{failure}: {where}{type(error).__name__}{f': {text}' if text else ''}") from error


def example_inputs(shapes: Sequence[str], default: Any) -> Any:
    """Random inputs in [0, 1) of the given shapes (fixed seed), or the model file's own."""
    if not shapes:
        if default is None:
            raise InputError("the input's shape is not known; give --input N,C,H,W or define example_inputs in the file")
        return default
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(sizes(text), generator=generator) for text in shapes)


def calibration_batches(path: str | None, inputs: Any, count: int) -> list[tuple[torch.Tensor, ...]]:
    """At most `count` batches from an .npy (first axis: samples) or .npz file (one array per input); random ones without a file."""
    example = as_tuple(inputs) or ()
    if path is None:
        generator = torch.Generator().manual_seed(1)
        return [tuple(_random(x, generator) for x in example) for _ in range(count)]
    arrays = _read_arrays(path)
    if len(arrays) != len(example):
        raise InputError(
            f"{path} holds {len(arrays)} array{'s'[: len(arrays) != 1]}, the model takes {len(example)} "
            f"input{'s'[: len(example) != 1]}"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path}: {name} holds {array.dtype}, not numbers")
        if array.ndim == 0:
            raise InputError(f"{path}: {name} is a single number; the first axis must be the samples")
    samples = {len(array) for array in arrays.values()}
    if len(samples) > 1:
        raise InputError(f"{path}: its arrays have different numbers of samples ({', '.join(map(str, sorted(samples)))})")
    batch = example[0].shape[0] if example[0].ndim else 1
    total = min(samples.pop(), count * batch)
    if total < 1:
        raise InputError(f"{path} holds no samples")
    return [tuple(torch.from_numpy(a[i : i + batch]).float() for a in arrays.values()) for i in range(0, total, batch)]


def _random(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Reals in [0, 1), or zeros and ones for integers, which are valid as indices."""
    if like.is_floating_point():
        return torch.rand(like.shape, generator=generator)
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype)


def _read_arrays(path: str) -> dict[str, Array]:
    """Arrays of an .npy or .npz file by name; never unpickles."""
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"the array": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        detail = "it holds Python objects, or is no NumPy file" if "pickle" in str(error) else " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as .npy or .npz: {detail}") from error
