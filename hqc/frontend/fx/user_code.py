"""Reads the source of the user's code: branches on `self.training`, and which lines are assertions."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import linecache
import os
import textwrap
from collections.abc import Iterator, Sequence
from types import FrameType, FunctionType

from hqc.frontend.fx.locations import is_user_file, user_frame

_Place = tuple[tuple[int, int], tuple[int, int]]
"""First and last line and column."""
_BACK = 4
"""As many code units may stand between an instruction and the jump that asks its result (a copy of it, its truth)."""


@functools.cache
def training_branches(cls: type) -> tuple[str, ...]:
    """`file.py:line` of every `if`, `while` or conditional expression in `cls` that tests `self.training`.

    Only the user's own code counts; a class without readable source has none that can be found.
    """
    found: list[str] = []
    for base in cls.__mro__:
        for function in vars(base).values():
            if isinstance(function, FunctionType) and "training" in function.__code__.co_names:
                found.extend(_branches(function))
    return tuple(dict.fromkeys(found))


def _branches(function: FunctionType) -> list[str]:
    filename = function.__code__.co_filename
    if not is_user_file(filename):
        return []
    try:
        lines, start = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return []
    tests = [node.test for node in ast.walk(tree) if isinstance(node, (ast.If, ast.IfExp, ast.While))]
    numbers = sorted({test.lineno for test in tests if any(map(_is_training, ast.walk(test)))})
    return [f"{os.path.basename(filename)}:{start + number - 1}" for number in numbers]


def update_branches(function: ast.FunctionDef) -> Iterator[ast.If]:
    """The branches `if self.training:` of a method that do nothing but write attributes of self, and have no other way.

    Names that they compute with may be assigned in them, if nothing else of the method reads those.
    """
    for node in ast.walk(function):
        if isinstance(node, ast.If) and _is_own(node.test, "training") and not node.orelse and all(map(_writes_own, node.body)):
            own = {item.id for item in _names(node.body) if isinstance(item.ctx, ast.Store)}
            inside = {id(item) for item in _names(node.body)}
            if not any(item.id in own for item in _names([function]) if id(item) not in inside):
                yield node


def _writes_own(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.With):
        return all(map(_writes_own, statement.body))
    if isinstance(statement, ast.Expr):  # self.mean.mul_(0.9).add_(y)
        called = statement.value
        while isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute):
            if not called.func.attr.endswith("_") or called.func.attr.endswith("__"):
                return False
            called = called.func.value
        return called is not statement.value and _is_own(called)
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if not isinstance(statement, (ast.Assign, ast.AugAssign)):
        return False
    return all(_is_own(target) or (isinstance(target, ast.Name) and isinstance(statement, ast.Assign)) for target in targets)


def _is_own(node: ast.AST | None, name: str | None = None) -> bool:
    """True for `self.name`, `self.a.b`, `self.a[...]` and `self.a.data`."""
    if name is not None:
        return (
            isinstance(node, ast.Attribute)
            and node.attr == name
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        )
    depth = 0
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node, depth = node.value, depth + isinstance(node, ast.Attribute)
    return depth > 0 and isinstance(node, ast.Name) and node.id == "self"


def _names(statements: Sequence[ast.AST]) -> list[ast.Name]:
    return [item for statement in statements for item in ast.walk(statement) if isinstance(item, ast.Name)]


def _is_training(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "training"


def in_assertion(stop: FrameType | None) -> bool:
    """True while the innermost user frame evaluates the condition of an `assert` (one without `not`)."""
    frame = user_frame(stop)
    if frame is None:
        return False
    return any(first <= frame.f_lineno <= last for first, last in _assertions(frame.f_code.co_filename))


def passed_check(frame: FrameType | None) -> bool | None:
    """What a condition about data must be for `frame` to pass the check that it evaluates: `if x.isnan().any(): raise ...`, or one that
    only tells the user; None where it does not evaluate one.

    With every part so that its side of `and` and `or` is what the whole shall be, the whole is that.
    """
    if frame is None:
        return None
    for test, passes in _checks(frame.f_code.co_filename):
        if is_asked(test, frame):
            if not _has_not(test):
                return passes
            leaf, negated = leaf_of_condition(test, frame) or (test, False)
            return None if _has_not(leaf) else passes != negated
    return None


def is_asked(test: ast.expr, frame: FrameType) -> bool:
    """Whether `frame` is at a line of `test`, a condition in its file."""
    return test.lineno <= frame.f_lineno <= (test.end_lineno or test.lineno)


def leaf_of_condition(test: ast.expr, frame: FrameType) -> tuple[ast.expr, bool] | None:
    """The part of `test` that `frame` asks now, and whether it is behind an odd number of `not`s; None where Python does not tell.

    The parts are what `and`, `or` and `not` join (`a` and `b` of `not a and b`).
    """
    negated = False
    while True:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, not negated
        elif isinstance(test, ast.BoolOp):
            place = _place(frame, test)
            within = [part for part in test.values if place is not None and _covers(part, place)]
            if len(within) != 1:
                return None
            (test,) = within
        else:
            return test, negated


def _place(frame: FrameType, whole: ast.expr) -> _Place | None:
    """Where the part of `whole` that `frame` asks now begins and ends; None before Python 3.11, which does not tell.

    A jump stands for the whole statement: it asks what the instruction before it computed.
    """
    positions = getattr(frame.f_code, "co_positions", None)
    if positions is None:
        return None
    at = frame.f_lasti // 2
    for first, last, start, end in [*itertools.islice(positions(), at + 1)][: -_BACK - 1 : -1]:
        if None not in (first, last, start, end) and _covers(whole, ((first, start), (last, end))):
            return (first, start), (last, end)
    return None


def _covers(node: ast.expr, place: _Place) -> bool:
    last = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= place[0] and place[1] <= last


@functools.cache
def _assertions(filename: str) -> tuple[tuple[int, int], ...]:
    """First and last lines of the conditions of all assertions in a file."""
    tests = [node.test for node in ast.walk(source_tree(filename)) if isinstance(node, ast.Assert)]
    return tuple((test.lineno, test.end_lineno or test.lineno) for test in tests if not _has_not(test))


@functools.cache
def _checks(filename: str) -> tuple[tuple[ast.expr, bool], ...]:
    """The conditions of all checks in a file, and what passes them."""
    found: list[tuple[ast.expr, bool]] = []
    pending: list[ast.AST] = [source_tree(filename)]
    while pending:
        node = pending.pop()
        caught = node.body if isinstance(node, ast.Try) and node.handlers else []  # what is raised there decides
        pending.extend(child for child in ast.iter_child_nodes(node) if child not in caught)
        if isinstance(node, ast.Assert):
            found.append((node.test, True))
        elif isinstance(node, ast.If) and not node.orelse and all(map(_only_tells, node.body)):
            found.append((node.test, False))
    return tuple(found)


def _only_tells(statement: ast.stmt) -> bool:
    """True for `raise`, and for what prints, warns or logs."""
    if isinstance(statement, (ast.Raise, ast.Pass)):
        return True
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    function = statement.value.func
    if isinstance(function, ast.Name):
        return function.id in ("print", "warn")
    home = function.value if isinstance(function, ast.Attribute) else None
    name = home.attr if isinstance(home, ast.Attribute) else home.id if isinstance(home, ast.Name) else ""
    return name.lower().lstrip("_") in ("warnings", "logging", "logger", "log")


def _has_not(test: ast.AST) -> bool:
    return any(isinstance(node, ast.Not) for node in ast.walk(test))


@functools.cache
def source_tree(filename: str) -> ast.Module:
    """The parsed source of a file, empty where there is none."""
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return ast.Module([], [])
