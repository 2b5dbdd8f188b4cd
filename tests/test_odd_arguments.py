"""Whatever is given to a public name, the answer is a result or one sentence. A new public name is covered by being public."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import hqc
from benchmarks.fuzz.surface import NOT_CALLED, OTHERS_PROTOCOL, odd_call, surface
from hqc.checked import checked, explained, numeric
from hqc.errors import HqcError, InputError
from hqc.march import state

ROOMS = sorted({name.split(".")[1] for name in surface()})
CALLS = 3
"""Of every public name; `python -m benchmarks.fuzz --kind surface` makes as many as there is time for."""


@pytest.fixture(autouse=True)
def _as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "_current", state._current)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.filterwarnings("ignore")
def test_odd_arguments_are_refused_in_one_sentence(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw: list[str] = []
    for name, public in surface().items():
        if name.split(".")[1] != room:
            continue
        for number in range(CALLS):
            call = odd_call(public, random.Random(f"{name}/{number}"))
            try:
                if call is not None:
                    call()
            except Exception as error:
                if isinstance(error, HqcError) and str(error).strip():
                    continue
                raw.append(f"{name}, call {number}: {traceback.format_exception_only(error)[-1].strip()}")
    assert not raw, "\n".join(raw)


def test_the_surface_has_what_users_call_and_lists_what_is_left_out() -> None:
    names = set(surface())
    for name in (
        "hqc.compile",
        "hqc.functional.nms",
        "hqc.jit.load",
        "hqc.ir.Graph.add_node",
        "hqc.passes.options_of",
        "hqc.dtype.qinfo",
    ):
        assert name in names
    assert len(names) > 1000 and not names & {*NOT_CALLED, *OTHERS_PROTOCOL} - {"hqc.frontend.fx.HqcTracer"}


def test_a_failed_call_says_which_argument_is_of_the_wrong_kind_and_other_errors_pass() -> None:
    @explained
    class Box:
        def __init__(self, sizes: dict[str, tuple[int, ...]], parts: list[str] | None = None) -> None:
            self.area = {name: size[0] * size[1] for name, size in sizes.items()}
            self.text = "/".join(parts or [])

        def named(self, name: str, work: object = None) -> int:
            if work == "break":
                raise KeyError("a fault of our own")
            return self.area[name[0:]]

    @numeric
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    @checked
    def joined(words: Sequence[str]) -> str:
        return " ".join(words)

    assert Box({"a": (2, 3)}).named("a") == 6 and joined(["a", "b"]) == "a b"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: Box({"a": (2, None)}), r"^sizes\['a'\]\[1\] must be a whole number, got None$"),  # type: ignore[dict-item]
        (lambda: Box({}, [3]), r"^parts\[0\] must be a text, got 3$"),  # type: ignore[list-item]
        (lambda: Box({}).named(3), r"^name must be a text, got 3$"),  # type: ignore[arg-type]
        (lambda: joined(["a", b"b"]), r"^words\[1\] must be a text, got a bytes$"),  # type: ignore[list-item]
        (lambda: product(torch.zeros(2, 3), 3), r"^b must be a Tensor, got 3$"),  # type: ignore[arg-type]
        (
            lambda: product(torch.zeros(2, 3), torch.zeros(2, 3)),
            r"product cannot be called on float32\[2, 3\], float32\[2, 3\]: .*shapes",
        ),
    ]
    for call, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            call()
    with pytest.raises(KeyError, match="fault of our own"):
        Box({}).named("a", "break")
    with pytest.raises(TypeError, match="missing"):
        product(torch.zeros(2))  # type: ignore[call-arg]


def test_one_tensor_is_no_list_of_tensors() -> None:
    """Its rows were put together again, for as long as there were any."""
    with pytest.raises(InputError, match="cat takes a list of tensors, got one tensor"):
        hqc.nn.quantized.FloatFunctional().cat(torch.zeros(2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 1 << 70, float("inf"), float("nan"), None, "0", 7])
def test_a_refused_change_leaves_the_graph_as_it_was(index: object) -> None:
    """An endless index was obeyed, operand by operand, and operands were let go before the new ones were looked at."""
    graph = hqc.ir.parse("input %x: f32[1,4]\n%y = relu(%x)\n%z = add(%y, %x)\noutput %z")
    before, add = str(graph), graph.value("z").producer
    assert add is not None
    with pytest.raises(InputError, match=r"^(add has no operand at the index|index must be)"):
        add.set_input(index, graph.value("x"))  # type: ignore[arg-type]
    for change in (lambda: add.set_input(0, "x"), lambda: add.set_inputs([graph.value("x"), 3])):  # type: ignore[arg-type, list-item]
        with pytest.raises(InputError, match="an operand is a Value of a graph"):
            change()
    assert str(graph) == before and hqc.ir.check(graph) == []
