"""What the command line names: a model in Python, passes, shapes of inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hqc.analysis.model_files import load_model
from hqc.analysis.onnx_arguments import GivenShape, given_shapes, is_onnx_file, shaped_inputs
from hqc.errors import InputError, PassError
from hqc.frontend.fx.tensors import check_size
from hqc.near_names import suggest
from hqc.passes.base import Pass
from hqc.passes.pipeline_text import parse_passes
from hqc.passes.registry import register_pass
from hqc.python_files import import_file
from hqc.structures import leaves, map_structure
from hqc.workflow.arguments import as_tuple
from hqc.workflow.onnx_files import file_inputs
from hqc.workflow.options import Edit
from hqc.workflow.pipelines import edit


def model_and_inputs(spec: str, shapes: Sequence[str], checkpoint: str | None = None) -> tuple[Any, Any]:
    """The model that `spec` names (see `load_model`; or `FILE.onnx`), and inputs for it: of the given shapes, or the file's own."""
    if is_onnx_file(spec):
        if checkpoint is not None:
            raise InputError(f"{spec} has its own weights; --checkpoint is for models in Python")
        return spec, tuple(map(torch.from_numpy, file_inputs(spec, shaped_inputs(shapes))))
    model, default = load_model(spec, checkpoint)
    return model, example_inputs(shapes, default, model)


def load_passes(file: str) -> None:
    """Run a Python file whose `@register_pass` classes then have a place in pipeline text. `InputError` for what it raises."""
    import_file(Path(file), "a pass")


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """`FILE.py:NAME` -> the function; `what`: what messages call it. `InputError` where there is none."""
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise InputError(f"give {what} as FILE.py:NAME, got {spec}")
    found = getattr(import_file(Path(path), what), name, None)
    if not callable(found):
        raise InputError(f"{name} in {path} is no function")
    return found  # type: ignore[no-any-return]


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
    found = getattr(import_file(Path(path), "a pass"), name, None)
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


def example_inputs(shapes: Sequence[str], default: Any, model: Any = None) -> Any:
    """Random inputs of the given shapes (fixed seed), or the model file's own.

    Reals in [0, 1), integers 0 or 1. With names (`--input ids=1,16:int64`) they go to these arguments of the model's forward.
    """
    if not shapes:
        if default is None:
            raise InputError("the input's shape is not known; give --input N,C,H,W or define example_inputs in the file")
        return default
    given = given_shapes(shapes)
    if given and given[0].name:
        given = _in_order(given, model)
    for each in given:
        check_size(each.sizes, f"the input {each.name}" if each.name else "an input of --input")
    generator = torch.Generator().manual_seed(0)
    return tuple(_drawn(each.sizes, _torch_dtype(each), generator) for each in given)


def _in_order(given: Sequence[GivenShape], model: Any) -> list[GivenShape]:
    """In the order of forward's arguments."""
    forward = getattr(model, "forward", None)
    names = list(inspect.signature(forward).parameters) if callable(forward) else []
    by_name = {each.name: each for each in given}
    for name in by_name:
        if name not in names:
            raise InputError(f"the model's forward has no input {name}; it takes {', '.join(names)}{suggest(name, names)}")
    wanted = names[: max(names.index(name) for name in by_name) + 1]
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise InputError(f"--input says nothing of {missing[0]}, which forward takes before {given[-1].name}")
    return [by_name[name] for name in wanted]


def _torch_dtype(given: GivenShape) -> torch.dtype:
    found = getattr(torch, given.dtype, None)
    if not isinstance(found, torch.dtype) or found.is_complex:
        raise InputError(f"--input takes a type such as float32, int64 or bool behind the sizes, got {given.dtype}")
    return found


def _drawn(sizes: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Reals in [0, 1); zeros and ones for integers, which are valid as indices."""
    if dtype.is_floating_point:
        return torch.rand(sizes, generator=generator, dtype=torch.float32).to(dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(dtype)


MOST_RANDOM = 10_000
"""Batches of random inputs; they show structure and speed only."""


def random_batches(inputs: Any, count: int) -> list[tuple[torch.Tensor, ...]]:
    """`count` batches of random reals in [0, 1), fixed seed; integer inputs are the example's own, which are valid indices."""
    if count > MOST_RANDOM:
        raise InputError(
            f"{count} batches of random inputs: at most {MOST_RANDOM:,} are drawn, for they say nothing of accuracy; give data instead"
        )
    example = as_tuple(inputs) or ()
    generator = torch.Generator().manual_seed(1)

    for tensor in filter(lambda leaf: isinstance(leaf, torch.Tensor), leaves(example)):
        check_size((count, *tensor.shape), f"{count} random samples")

    def drawn(tensor: Any) -> Any:
        floats = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        return torch.rand(tensor.shape, generator=generator) if floats else tensor

    return [tuple(map_structure(each, drawn) for each in example) for _ in range(count)]
