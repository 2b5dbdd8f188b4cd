"""Which of the user's functions a trace rewrites: those that a call of the model can reach, and no other."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hqc.frontend.fx import rewriting, trace


class Base(nn.Module):
    """As base classes of libraries, it does more than computing."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind, self.ready = kind, len(kind) > 0

    def save(self, path: str) -> int:
        logging.getLogger(path).info("saved")
        return len(path) + exported(path)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"forward_{self.kind}")(x)

    def forward_plain(self, x: Tensor) -> Tensor:
        return x[: self.rows(x)]

    @property
    def least(self) -> int:
        return int(len(self.kind) / 2)

    def rows(self, x: Tensor) -> int:
        return halved(int(x.size(0))) + self.least


def halved(size: int) -> int:
    return int(size / 2)


def exported(path: str) -> int:
    return len(path)


@pytest.fixture
def rewritten(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    found: set[str] = set()

    def noted(code: CodeType) -> Any:
        found.add(code.co_name)
        return original(code)

    original = rewriting.rewritten_code
    monkeypatch.setattr(rewriting, "rewritten_code", noted)
    return found


def test_what_a_call_reaches_is_rewritten_and_nothing_else(rewritten: set[str]) -> None:
    traced = trace(Base().eval(), torch.ones(8, 3))
    assert {"forward", "forward_plain", "rows", "least", "halved"} <= rewritten
    assert not {"save", "exported", "__init__", "info", "getLogger"} & rewritten
    assert len(traced(torch.ones(6, 3))) == 5  # sizes stayed sizes in all of it


@dataclasses.dataclass
class Result:
    """As the results of published models, it looks at what it is given."""

    state: Any = None

    def __post_init__(self) -> None:
        self.rows = None if is_array(self.state) else list(self.state)


class LastState(Result):
    pass


def is_array(item: Any) -> bool:
    return any(test(item) for test in (is_tensor,))


def is_tensor(item: Any) -> bool:
    return isinstance(item, Tensor)


class WithResult(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result = LastState(x.relu())
        return result.state if result.rows is None else torch.stack(result.rows)


def test_what_a_class_inherits_is_rewritten(rewritten: set[str]) -> None:
    traced = trace(WithResult().eval(), torch.ones(1, 3))
    assert {"__post_init__", "is_tensor"} <= rewritten
    assert len(traced(torch.ones(6, 3))) == 6  # nobody went through the rows


class Colours(nn.Module):
    """Its methods are called, itself is not."""

    def to_rows(self, x: Tensor) -> Tensor:
        return x * torch.Tensor(x.shape[0], 3).fill_(float(len(x)))


class WithColours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colours = Colours()
        self.more = nn.ModuleList([Colours(), nn.Sequential(Colours())])

    def forward(self, x: Tensor) -> Tensor:
        for each in (self.colours, self.more[0], *self.more[1]):
            x = each.to_rows(x)
        return x


def test_methods_of_parts_that_are_never_called_are_rewritten(rewritten: set[str]) -> None:
    traced = trace(WithColours().eval(), torch.ones(2, 3))
    assert "to_rows" in rewritten
    assert torch.equal(traced(torch.ones(4, 3)), torch.full((4, 3), 64.0))


# fmt: off
TWINS = [lambda x: x * float(len(x)), lambda x: x + float(len(x))]
# fmt: on


class Twin(nn.Module):
    def __init__(self, which: int) -> None:
        super().__init__()
        self.step = TWINS[which]

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


@pytest.mark.parametrize("which", [0, 1])
def test_two_lambdas_in_one_line_are_two_programs(which: int) -> None:
    x = torch.ones(4, 3)
    torch.testing.assert_close(trace(Twin(which).eval(), x)(x), TWINS[which](x))


def test_code_of_a_file_that_was_changed_after_its_import_stays_what_was_imported(tmp_path: Path) -> None:
    file = tmp_path / "changed_later.py"
    file.write_text("def step(x):\n    return x * float(len(x))\n")
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), names)
    file.write_text("def step(x):\n    return x + float(len(x))\n")
    assert rewriting.rewritten_code(names["step"].__code__) is None


def _checked_by_generated_code(function):
    """As beartype checks type hints: a wrapper made from text, over the globals of the user's module."""
    text = (
        "def forward(*args, __checked=None):\n"
        "    if not isinstance(args[1], Kind):\n"
        "        raise TypeError('x violates its type hint')\n"
        "    return __checked(*args)\n"
    )
    names = dict(function.__globals__, Kind=Tensor)
    exec(compile(text, "<checker of forward>", "exec"), names)
    wrapper = names["forward"]
    wrapper.__kwdefaults__ = {"__checked": function}
    wrapper.__wrapped__ = function
    return wrapper


def test_generated_checks_of_type_hints_take_proxies():
    class Model(nn.Module):
        @_checked_by_generated_code
        def forward(self, x):
            return x + 1

    x = torch.rand(2, 3)
    traced = trace(Model(), x)
    assert not traced.meta["hqc_warnings"]
    torch.testing.assert_close(traced(x), x + 1)
    with pytest.raises(TypeError, match="violates"):
        Model()("text")


def _looked_up(size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many names are taken apart for a model of `size` methods that are called by composed names, and as many texts."""
    looked_up = []
    parts_of_name = rewriting._parts_of_name
    monkeypatch.setattr(rewriting, "_parts_of_name", lambda name: looked_up.append(name) or parts_of_name(name))
    methods = "".join(f"    def method_{i}(self, x):\n        return helper_{i}(x)\n" for i in range(size))
    calls = f"        for i in range({size}):\n            x = getattr(self, 'method_' + str(i))(x)\n"
    helpers = "".join(f"def helper_{i}(x):\n    assert 'text_of_{i}'\n    return x + {i}\n" for i in range(size))
    names: dict[str, Any] = {"nn": nn, "__name__": "user"}
    source = f"{helpers}class Model(nn.Module):\n{methods}    def forward(self, x):\n{calls}        return x\n"
    exec(compile(source, f"user_of_{size}.py", "exec", dont_inherit=True), names)
    x = torch.rand(2)
    torch.testing.assert_close(trace(names["Model"](), x)(x), x + sum(range(size)))
    monkeypatch.undo()
    return len(looked_up)


def test_every_name_is_looked_up_once_however_many_functions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < _looked_up(80, monkeypatch) < 5 * _looked_up(20, monkeypatch)
