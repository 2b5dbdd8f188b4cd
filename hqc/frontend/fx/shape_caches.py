"""What models compute once and keep until an input has another shape: `if self.shape != x.shape: self.anchors, self.shape = ...`.

A graph that computes it is right for every shape; one that reads what a call before left is right for that call's shape alone. So the
condition is taken as if the shape were new, and nothing is assumed. That the next call, which finds it kept, computes the same is
checked like everything that calls leave behind (`hqc.frontend.fx.kept_state`).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from types import FrameType

from hqc.frontend.fx.user_code import is_asked, leaf_of_condition, source_tree


def answer_that_renews(frame: FrameType | None) -> bool | None:
    """What the condition that `frame` asks now must be for what it compares to be computed anew; None where it guards no such thing."""
    if frame is None:
        return None
    for test, renewed_by_true, renewed_by_false in _caches(frame.f_code.co_filename):
        if is_asked(test, frame):
            leaf, negated = leaf_of_condition(test, frame) or (test, False)
            kept = {*_attributes(leaf)} if _asks_equality(leaf) else set()
            for answer, renewed in ((True, renewed_by_true), (False, renewed_by_false)):
                if kept & renewed:
                    return answer != negated
    return None


def _asks_equality(leaf: ast.expr) -> bool:
    """True for `a == b` and `a != b`: what is kept as long as it is large enough (`self.length >= n`) may be another for a larger size."""
    return isinstance(leaf, ast.Compare) and all(isinstance(each, (ast.Eq, ast.NotEq)) for each in leaf.ops)


@functools.cache
def _caches(filename: str) -> tuple[tuple[ast.expr, frozenset[str], frozenset[str]], ...]:
    """The conditions of a file with the attributes that are assigned where they are true and where they are false, if any are."""
    found = []
    for block in _blocks(source_tree(filename)):
        for index, statement in enumerate(block):
            if not isinstance(statement, ast.If):
                continue
            leaves = bool(statement.body) and isinstance(statement.body[-1], ast.Return)
            otherwise = block[index + 1 :] if leaves and not statement.orelse else statement.orelse
            renewed = _renewed(statement.body), _renewed(otherwise)
            if any(renewed):
                found.append((statement.test, *renewed))
    return tuple(found)


def _blocks(tree: ast.AST) -> Iterator[Sequence[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _renewed(block: Sequence[ast.stmt]) -> frozenset[str]:
    """Attributes that `block` assigns, of whatever else than their own value."""
    assigned: set[str] = set()
    read: set[str] = set()
    for statement in block:
        for node in ast.walk(statement):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    assigned.update(_attributes(target))
                read.update(_attributes(node.value))
    return frozenset(assigned - read)


def _attributes(node: ast.AST) -> Iterator[str]:
    """The attributes in an expression, `self.shape` for one."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            yield f"{each.value.id}.{each.attr}"
