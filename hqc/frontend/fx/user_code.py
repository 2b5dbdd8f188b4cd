"""Reads the source of the user's code: branches on `self.training`, and which lines are assertions."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import textwrap
from types import FrameType, FunctionType

from hqc.frontend.fx.locations import is_user_file, user_frame


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


def _is_training(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "training"


def in_assertion(stop: FrameType | None) -> bool:
    """True while the innermost user frame evaluates the condition of an `assert` (one without `not`)."""
    frame = user_frame(stop)
    if frame is None:
        return False
    return any(first <= frame.f_lineno <= last for first, last in _assertions(frame.f_code.co_filename))


@functools.cache
def _assertions(filename: str) -> tuple[tuple[int, int], ...]:
    """First and last lines of the conditions of all assertions in a file."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return ()
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    plain = [test for test in tests if not any(isinstance(node, ast.Not) for node in ast.walk(test))]
    return tuple((test.lineno, test.end_lineno or test.lineno) for test in plain)
