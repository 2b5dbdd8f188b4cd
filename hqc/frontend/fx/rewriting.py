"""Calls of `int`, `float`, `len`, `isinstance`, `type` and `callable`, of types of tensors (`torch.FloatTensor(n, 3)`), and `is`, in
the user's code: Python and C++ answer, no proxy can record.

A `try` whose handlers may wait for what torch says of shapes (`try: x.view(...) except RuntimeError:`) tells the trace, which then asks
torch call by call.

So are branches `if self.training:` that only change buffers: they are taken, as part of the graph that acts in training.

While a trace runs, the functions it may reach run from code in which these calls go to `proxies`: `int(x.size(0))` stays a size,
`len(x)` is one, `isinstance(x, torch.Tensor)` is true of a traced tensor. The code is compiled from the same source with the
same positions, so that lines in errors and debuggers stay right; what it does without proxies is the same. Functions without
readable source stay as they are.
"""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from hqc.frontend.fx.locations import is_user_file
from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.proxies import find_proxy
from hqc.frontend.fx.user_code import update_branches

_MARK = "__hqc_call_of_{}__"
_ASKED_BY_NAME = frozenset({"isinstance"})
"""Builtins that are called and never stand for a type, so that a global of that name may be another function."""
_CACHED = functools._lru_cache_wrapper
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_NOT_IN_CALLS = frozenset(
    {
        "__init__",
        "__new__",
        "__init_subclass__",
        "__class_getitem__",
        "__repr__",
        "__reduce__",
        "__reduce_ex__",
        "__getstate__",
        "__setstate__",
        "__deepcopy__",
    }
)
"""Special methods of modules that run before a call or beside it."""

_LEAST_PART = 4
"""Shorter texts are parts of too many names."""


class Rewriter:
    """Swaps the code of functions for the length of `patches`. `replacements`: what to call in place of each builtin."""

    def __init__(self, patches: Patches, replacements: Mapping[str, Callable[..., Any]]) -> None:
        self._patches = patches
        self._replacements = dict(replacements)
        self._visited: set[int] = set()
        self._named: set[str] = set()  # in the code that is reached, names and texts
        self._parts: set[str] = set()  # texts that may be a part of a name
        self._unnamed: dict[str, list[Any]] = {}  # members of the classes that are reached, which no such code names
        self._by_part: dict[str, list[str]] = {}  # their names, by each text that they may be built of
        self._read: set[int] = set()  # modules that the model was asked for

    def module(self, module: nn.Module) -> None:
        """Swap the code of the methods of a module's class that a call can reach, and of what they call by name.

        Base classes of libraries load, save and generate too; to rewrite all of that would take longer than the trace.
        """
        for item in list(module.__dict__.values()):
            if isinstance(item, (FunctionType, types.MethodType, functools.partial)):
                self.reach(item)
        self._class(type(module))

    def read(self, module: nn.Module) -> None:
        """Swap the code of a part that forward reads and may not call: `self.colours.to_hue(x)`, `for each in self.heads: each.mix(x)`."""
        pending = [module]
        while pending:
            current = pending.pop()
            if id(current) not in self._read:
                self._read.add(id(current))
                self.module(current)
                if isinstance(current, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
                    pending.extend(current.children())

    def _class(self, cls: type) -> None:
        if id(cls) in self._visited:
            return
        self._visited.add(id(cls))
        for base in cls.__mro__:
            if _is_user_module(base.__module__):
                for item in self._members(base, _NOT_IN_CALLS):
                    self.reach(item)

    def _members(self, cls: type, unused: frozenset[str]) -> Iterator[Any]:
        """The members of a class that the code reached so far names, and those that Python calls; the others when they are named.

        `unused`: special methods that are not called while a trace runs.
        """
        for name, item in list(vars(cls).items()):
            if isinstance(item, _CACHED):
                self._patches.attribute(cls, name, _uncached(item))
            if name in unused:
                continue
            special = name.startswith("__") and name.endswith("__")
            if special or name == "forward" or name in self._named or not self._parts.isdisjoint(_parts_of_name(name)):
                yield item
            elif name in self._unnamed:
                self._unnamed[name].append(item)
            else:
                self._unnamed[name] = [item]
                for part in _parts_of_name(name):
                    self._by_part.setdefault(part, []).append(name)

    def reach(self, item: Any) -> None:
        """Swap the code of a function, method, property or descriptor, and of the functions that it names."""
        pending = [item]
        while pending:
            current = pending.pop()
            if id(current) in self._visited:
                continue
            if isinstance(current, FunctionType):
                self._visited.add(id(current))
                pending.extend(self._function(current))
            elif isinstance(current, (staticmethod, classmethod, types.MethodType)):
                pending.append(current.__func__)
            elif isinstance(current, _CACHED):
                pending.append(current.__wrapped__)
            elif isinstance(current, property):
                pending.extend(part for part in (current.fget,) if part is not None)
            elif isinstance(current, functools.partial):
                pending.append(current.func)
            elif isinstance(current, type) and not issubclass(current, nn.Module) and _is_user_module(current.__module__):
                self._visited.add(id(current))
                pending.extend(current.__bases__)  # what it inherits runs too
                pending.extend(self._members(current, frozenset()))
                if "__subclasses__" in self._named:  # a library that looks for the class that knows a tensor
                    pending.extend(type.__subclasses__(current))

    def _function(self, function: FunctionType) -> Iterator[Any]:
        """Swap one function's code; what it may call."""
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield wrapped
        code = function.__code__
        if code.co_filename.startswith("<"):  # generated (a checker of type hints): its names are looked up all the same
            for name in _ASKED_BY_NAME.intersection(code.co_names).difference(function.__globals__):
                self._patches.item(function.__globals__, name, self._replacements[name])
        if not is_user_file(code.co_filename) or _is_python_s(code.co_filename):
            return
        yield from self._newly_named(code)
        for cell in function.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # an empty cell
                continue
        for name in names_in(code):
            found = function.__globals__.get(name)
            plain = uncompiled(found)
            replaced = self._patches.functions.get(id(plain))
            if replaced is not None and replaced[0] is plain:  # imported by name
                self._patches.item(function.__globals__, name, replaced[1])
                continue
            if isinstance(found, types.ModuleType) and _is_user_module(found.__name__):
                for attribute in names_in(code):
                    inner = vars(found).get(attribute)
                    if isinstance(inner, (FunctionType, type)):
                        yield inner
            elif isinstance(found, (FunctionType, type, functools.partial)):
                yield found
            elif isinstance(found, torch.jit.ScriptFunction) and hasattr(found, "_torchdynamo_inline"):
                self._patches.item(function.__globals__, name, _unscripted(found))
                yield found._torchdynamo_inline
            elif isinstance(found, _CACHED) and is_user_file(found.__wrapped__.__code__.co_filename):
                self._patches.item(function.__globals__, name, _uncached(found))
                yield found.__wrapped__
        rewritten = rewritten_code(code)
        if rewritten is not None:
            self._patches.code(function, _filled(rewritten, self._replacements))

    def _newly_named(self, code: CodeType) -> Iterator[Any]:
        """Members of the classes that are reached, which `code` is the first to name."""
        texts = _texts(code)
        new = (names_in(code) | texts) - self._named
        parts = {text for text in texts - self._parts if len(text) >= _LEAST_PART and text.strip("_") != text}
        self._named |= new
        self._parts |= parts
        named = [*sorted(new), *(name for part in sorted(parts) for name in self._by_part.get(part, ()))]
        for name in named:
            yield from self._unnamed.pop(name, ())


def _uncached(cached: Any) -> Callable[..., Any]:
    """A function with an `lru_cache`, which must not keep proxies: the cache is for calls without them."""

    @functools.wraps(cached.__wrapped__)
    def function(*args: Any, **kwargs: Any) -> Any:
        return cached(*args, **kwargs) if find_proxy((args, kwargs)) is None else cached.__wrapped__(*args, **kwargs)

    return function


def open_compiled_functions(patches: Patches) -> None:
    """While tracing, functions of `torch.compile` run as what it was given, wherever the model keeps them."""
    if "torch._dynamo" in sys.modules:
        patches.context(torch._dynamo.config.patch(error_on_nested_fx_trace=False))


def uncompiled(item: Any) -> Any:
    """What `torch.compile` was given, where `item` is a function that it gave."""
    return vars(item).get("_torchdynamo_orig_callable", item) if isinstance(item, FunctionType) else item


def _unscripted(scripted: Any) -> Callable[..., Any]:
    """A scripted function, whose C++ takes no proxies: on them, the Python function that it was made of."""
    original = scripted._torchdynamo_inline

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        return (scripted if find_proxy((args, kwargs)) is None else original)(*args, **kwargs)

    return function


def _is_user_module(name: str) -> bool:
    return name.partition(".")[0] not in ("torch", "builtins", "numpy", "hqc", "typing", "abc", "functools")


def _is_python_s(filename: str) -> bool:
    """True for files of Python's own library; installed packages may be in folders inside of it."""
    inside = filename.removeprefix(_STANDARD_LIBRARY)
    return inside != filename and inside.partition(os.sep)[0] not in ("site-packages", "dist-packages")


def names_in(code: CodeType) -> set[str]:
    """Names that code, and what is defined in it, reads."""
    found = set(code.co_names)
    for part in _parts_of(code):
        found |= names_in(part)
    return found


def _texts(code: CodeType) -> set[str]:
    """Texts in the code, by which `getattr` may read a member."""
    found = {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()}
    for part in _parts_of(code):
        found |= _texts(part)
    return found


def _parts_of_name(name: str) -> Iterator[str]:
    """The texts that `name` may be built of, as in `getattr(self, f"forward_{kind}")`: its beginnings and its ends."""
    for size in range(_LEAST_PART, len(name) + 1):
        yield name[:size]
        yield name[-size:]


def _filled(code: CodeType, replacements: Mapping[str, Callable[..., Any]]) -> CodeType:
    """The code with the marks in its constants replaced by what they stand for."""
    marks = {_MARK.format(name): replacement for name, replacement in replacements.items()}

    def fill(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return _filled(constant, replacements)
        return marks.get(constant, constant) if isinstance(constant, str) else constant

    return code.replace(co_consts=tuple(fill(constant) for constant in code.co_consts))


@functools.cache
def rewritten_code(code: CodeType) -> CodeType | None:
    """The code with marks for the calls, or None where there is none, or no source that it certainly came from."""
    if not names_in(code) & {*CALLS, *TENSOR_TYPES, "training"} and not _tests_identity(code) and not _catches(code):
        return None
    stamp = os.stat(code.co_filename).st_mtime_ns if os.path.exists(code.co_filename) else 0
    return _file_codes(code.co_filename, stamp).get(_program(code))


def _tests_identity(code: CodeType) -> bool:
    """True where code has the instruction of `is` on something else than None (of which Python has its own)."""
    if any(instruction.opname == "IS_OP" for instruction in dis.get_instructions(code)):
        return True
    return any(map(_tests_identity, _parts_of(code)))


def _catches(code: CodeType) -> bool:
    """True where code has an `except` in it."""
    before = ""
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH") or (before, name) == ("PUSH_EXC_INFO", "POP_TOP"):
            return True
        before = name
    return any(map(_catches, _parts_of(code)))


def _program(code: CodeType) -> tuple[Any, ...]:
    """What tells a code object from every other of its file: instructions, constants and positions; no state of the interpreter.

    Two lambdas in one line have the same name, first line and variables; a file that was changed after it was imported has other code.
    """
    constants = tuple(_program(each) if isinstance(each, CodeType) else (type(each), each) for each in code.co_consts)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_firstlineno, code.co_code, code.co_linetable, counts, names, constants)


CALLS = ("int", "float", "len", "isinstance", "type", "callable")
TENSOR_TYPES = frozenset(
    f"{kind}Tensor" for kind in ("", "Float", "Double", "Half", "Byte", "Char", "Short", "Int", "Long", "Bool")
)
"""Names of the types of tensors, which are called to make some. They may be imported, or names that the user gave."""
MAKER = "maker"
IS = "is"
IN_TRAINING = "in_training"
UPDATING = "updating"
TRYING = "trying"


@functools.cache
def _file_codes(filename: str, stamp: int) -> dict[tuple[Any, ...], CodeType]:
    """Code objects of a source file with the calls marked, by the `_program` that each was made of."""
    source = "".join(linecache.getlines(filename))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a constant is called
            own = compile(ast.parse(source, filename), filename, "exec", dont_inherit=True)
            marked = compile(_MarkCalls().visit(ast.parse(source, filename)), filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return {}
    found: dict[tuple[Any, ...], CodeType] = {}
    pending = [(own, marked)]
    while pending:
        code, rewritten = pending.pop()
        found[_program(code)] = rewritten
        parts, new_parts = _parts_of(code), _parts_of(rewritten)
        if [part.co_name for part in parts] == [part.co_name for part in new_parts]:
            pending.extend(zip(parts, new_parts, strict=True))
    return found


def _parts_of(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


class _MarkCalls(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        branches = list(update_branches(node))
        self.generic_visit(node)
        for branch in branches:
            branch.test = _call(IN_TRAINING, branch.test, branch.test)
            region = ast.withitem(_call(UPDATING, branch.test))
            branch.body = [ast.copy_location(ast.With([region], branch.body), branch.body[0])]
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        self.generic_visit(node)
        if node.handlers:
            first = node.body[0]
            place = ast.copy_location(ast.Constant(None), first)
            node.body = [ast.copy_location(ast.With([ast.withitem(_call(TRYING, place))], node.body), first)]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in CALLS and not node.keywords:
            node.func = ast.copy_location(ast.Constant(_MARK.format(node.func.id)), node.func)
        elif (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in TENSOR_TYPES:
            node.func = _call(MAKER, node.func, node.func)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        same: ast.expr = _call(IS, node, node.left, node.comparators[0])
        return same if isinstance(node.ops[0], ast.Is) else ast.copy_location(ast.UnaryOp(ast.Not(), same), node)


def _call(name: str, place: ast.expr, *operands: ast.expr) -> ast.Call:
    """A call of the replacement `name`, at the position of `place`."""
    return ast.copy_location(ast.Call(ast.copy_location(ast.Constant(_MARK.format(name)), place), list(operands), []), place)
