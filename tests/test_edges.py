"""Each kind of raw error that fuzzing found is closed at one edge; here is what holds for all that pass it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.checked import annotations_of, described, takes
from hqc.errors import HqcError, InputError, LoweringError
from hqc.structures import leaves, map_structure, named_leaves

API = Path(__file__).parents[1] / "docs" / "api.md"
ODD: tuple[Any, ...] = (
    None, True, -1, 1 << 70, 1.5, float("nan"), "x", "\ud800", b"\xff", [], {}, [None], {"x": None}, object(), object, int, range(3),
    slice(1), np.array([]), np.array("x"), np.float32(2), np.zeros((2, 2)), torch.zeros(2, 2), torch.zeros(()), torch.float32, Ellipsis,
    complex(1, 2), iter([]), Exception("x"), memoryview(b"abc"), nn.Identity(), len,
)  # fmt: skip


def public_functions() -> dict[str, Callable[..., Any]]:
    """Functions of the API page, and methods of the classes on it that take something."""
    found = {}
    for path in re.findall(r"^::: (\S+)$", API.read_text(), re.MULTILINE):
        module, _, name = path.rpartition(".")
        item = getattr(importlib.import_module(module), name)
        if inspect.isfunction(item):
            found[path] = item
        elif path in ("hqc.Compiled", "hqc.LoadedModel"):
            methods = inspect.getmembers(item, inspect.isfunction)
            found |= {f"{path}.{name}": method for name, method in methods if not name.startswith("_")}
    return found


FUNCTIONS = public_functions()
WORDS = {
    "hqc.workflow.pipelines.edit.item": "an edit (takes a pass|of a pipeline)",
    "hqc.analysis.compare.compare.model": r"hqc\.compile",
}
"""Parameters that a body refuses in better words."""


def narrow(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameters that do not take everything."""
    return {
        name: annotation for name, annotation in annotations_of(function).items() if not all(takes(annotation, x) for x in ODD)
    }


def example(annotation: Any) -> Any:
    """Something that the annotation takes; of a class that is not known here, an empty instance."""
    simple = (None, "x", 1, nn.Identity(), hqc.ir.Graph("g"), *ODD)
    classes = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type) and each is not Any]
    made = (cls.__new__(cls) for cls in classes)
    return next((each for each in itertools.chain(simple, made) if takes(annotation, each)), None)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_parameter_of_a_public_call_refuses_what_its_signature_does_not_take(name: str) -> None:
    function = FUNCTIONS[name]
    annotations = annotations_of(function)
    required = {
        parameter: example(annotations[parameter])
        for parameter, each in inspect.signature(function).parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    for parameter, annotation in narrow(function).items():
        for odd in ODD:
            if not takes(annotation, odd):
                words = WORDS.get(f"{name}.{parameter}", rf"^({parameter} must be |unknown march)")
                with pytest.raises(HqcError, match=words):
                    function(**{**required, parameter: odd})


def test_what_annotations_take_and_how_they_are_called() -> None:
    def function(
        a: int,
        b: float = 0.0,
        c: str | None = None,
        d: dict[str, int] | None = None,
        e: Unknown = 1,  # type: ignore[name-defined] # noqa: F821
        *f: str,
    ) -> None: ...

    found = annotations_of(function)
    assert list(found) == ["a", "b", "c", "d", "e"] and found["e"] is Any
    assert takes(found["a"], np.int64(3)) and not takes(found["a"], True) and not takes(found["a"], 1.0)
    assert takes(found["b"], 3) and takes(found["b"], np.float32(1)) and not takes(found["b"], "1")
    assert described(found["c"]) == "a text or None" and described(found["d"]) == "a dict or None"
    checked = hqc.checked.checked(function)
    with pytest.raises(InputError, match=r"^d must be a dict or None, got a ndarray$"):
        checked(1, d=np.zeros(3))
    with pytest.raises(InputError, match=r"^a must be a whole number, got 'x'$"):
        checked("x")
    with pytest.raises(TypeError, match="missing"):
        checked()


TEXT = """input %x: f32[1,2,4,4]
param @w: f32[2,2,1,1] = #random(0, [2,2,1,1])
param @b: f32[2] = [0.5, -1]
%c = conv2d(%x, @w, @b) {stride = [1,1], padding = [0,0,0,0]} bpu.0
%l = leaky_relu(%c) {slope = 0.25}
%t = transpose(%l) {perm = [0,2,3,1]}
%s = resize2d(%t) {scale_factor = [2.0,1.5], mode = bilinear}
output %s
"""
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "1.5",
    "0",
    "9" * 399,
    "-" + "9" * 398,
    "9" * 5000,
    "1e400",
    "1e-400",
    "99999999999",
    "0x1",
    "",
)


def test_any_number_of_a_text_may_be_any_other() -> None:
    hqc.ir.parse(TEXT)
    for found in re.finditer(r"-?\d+(\.\d+)?", TEXT):
        for number in NUMBERS:
            changed = TEXT[: found.start()] + number + TEXT[found.end() :]
            with contextlib.suppress(HqcError):  # nothing else gets through
                hqc.ir.parse(changed)


@dataclass
class Pair:
    """A dataclass of the user's."""

    left: Any
    right: Any


def structures(generator: random.Random, depth: int) -> Any:
    if depth == 0 or generator.random() < 0.3:
        return generator.random()
    parts = [structures(generator, depth - 1) for _ in range(3)]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: parts, lambda: tuple(parts), lambda: slice(*parts), lambda: Pair(*parts[:2]), lambda: dict(zip("abc", parts, strict=True)),
        lambda: parts[:0], lambda: torch.return_types.max(tuple(parts[:2])) if generator.random() < 0.5 else {},
    )  # fmt: skip
    return generator.choice(kinds)()


def test_the_walks_over_a_structure_meet_the_same_leaves_in_the_same_order() -> None:
    for seed in range(300):
        structure = structures(random.Random(seed), 4)
        met: list[Any] = []
        map_structure(structure, met.append)
        assert met == list(leaves(structure)) == [leaf for _, leaf in named_leaves(structure, "x")]


def operands() -> Iterator[Any]:
    yield from (1.5, 3, {"a": 1}, (1, 2), [], slice(3), "x")


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 1), nn.Linear(3, 2), nn.MaxPool2d(2), nn.Softmax(1), nn.Flatten()], ids=str)
def test_a_layer_refuses_what_is_no_tensor_by_name(layer: nn.Module) -> None:
    for odd in operands():
        with pytest.raises((LoweringError, InputError)) as caught:
            hqc.lower(nn.Sequential(layer), (odd,) if isinstance(odd, (tuple, list)) else odd)
        assert str(caught.value)


def test_numbers_of_any_length_in_texts_are_refused_in_a_sentence() -> None:
    """Python reads no number of more than 4,300 digits, and none of "²"."""
    from hqc.checked import whole_number
    from hqc.data import Preprocessing

    assert [whole_number(text) for text in ("0", "007", "", "-1", "1.5", "²", "9" * 5000, "9" * 19)] == [0, 7, *[None] * 6]
    for odd in ("9" * 5000, "letterbox:" + "9" * 5000, "letterbox:256", "0", "²", "stretch:3"):
        with pytest.raises(InputError, match="resize is "):
            Preprocessing(resize=odd)
    assert Preprocessing(resize="letterbox:").resize_plan == ("letterbox", 114)
    graph = hqc.ir.parse("input %x: f32[1,4]\noutput %x")
    x = graph.value("x")
    name = graph.unique_name("x")
    first = graph.add_node("relu", [x], name=name)
    graph.rename(first.result, "x_" + "9" * 5000)
    graph.rename(first.result, "short")
    assert graph.unique_name("x") == name
