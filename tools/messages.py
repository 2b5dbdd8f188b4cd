"""The catalogue of what hqc says: `python -m tools.messages` brings it up to date with the sources.

Messages stay where they are said, as plain strings and f-strings. This module reads all of them out of the sources: an f-string becomes a
template with a number for each value (`f"{name} has {len(shape)} axes"` is `{0} has {1} axes`). Translations are in
`hqc/language/zh.po`, the format that translators' tools read; what hqc itself reads is the table `hqc/language/zh.json`, which this module
writes from it. A message whose English changed slightly comes back marked `fuzzy`, with its old translation to be looked at.

`{s}` stands for an ending that Chinese does not have (`input{s}`, `{s}` for `is` or `are`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
PO, TABLE = ROOT / "hqc" / "language" / "zh.po", ROOT / "hqc" / "language" / "zh.json"

NOT_SAID = {
    "hqc/analysis/op_support.py": "writes a page of the documentation",
    "hqc/backends/onnx/hb_mapper.py": "writes the configuration of another tool",
    "hqc/analysis/pass_reference.py": "writes a page of the documentation",
    "hqc/analysis/picture/dot.py": "writes Graphviz's language",
    "hqc/cli/reference.py": "writes a page of the documentation in both languages",
    "hqc/compat/api.py": "writes a page of the documentation",
    "hqc/compat/differences.py": "writes a page of the documentation",
    "hqc/ir/reference.py": "writes a page of the documentation",
    "hqc/march/contradictions.py": "writes a page of the documentation",
}
"""Files whose sentences no user of the program meets, and why."""

_INFLECTIONS = {
    "", "s", "es", "y", "ies", "a", "an", "is", "are", "has", "have", "was", "were", "does", "do", "its", "their", "it", "them", "they",
    "this", "these", "runs", "run", "takes", "take", "needs", "need", "reads", "read", "ends", "end", "goes", "go",
}  # fmt: skip
_PROSE = re.compile(r"[A-Za-z]{2,}[,:;)'\"]* \(?[a-z]{2,}|\} \(?[a-z]{2,}|[a-z]{2,}[,:;]? ['\"(]?\{")
_CODE = re.compile(
    r"=>|</|<!--|^from [\w.]+ import|^import |^def |\) ->|^\"\"\"|^<[!A-Za-z]|^get_default_qconfig|^(bold|dim) |^[a-z_]+\?, |^x, "
)
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_PERCENT = re.compile(r"%(?:\.\d+)?[sdrfg]")
_SINKS = re.compile(
    r"(Error|Reason|Rule|Remark|Finding|Unmet|broken|UsageError|BadParameter|CannotExpress|complain|note|say|tr|plural)$"
)
_RULES = {"hqc/march/predicates/": "condition", "hqc/ir/": "rule"}
"""Decorators of functions whose docstring is the rule that they check, and is said where it is broken."""
_SHORTENED = {"within the limits": "a placement table leaves the march's name out of its reasons"}
"""Messages that are no literal of the sources, and why they are said."""
_QUIET = {"compile", "search", "match", "fullmatch", "sub", "getLogger", "debug"}
_QUIET_KEYWORDS = {"help", "short_help", "operands"}
"""Help texts are read from the commands themselves; the rest is documentation."""


@dataclass(frozen=True)
class Message:
    """`text`: the template. `values`: the expressions in its numbered places. `file`, `line`: where it is said."""

    text: str
    values: tuple[str, ...]
    file: str
    line: int


def messages(root: Path = ROOT) -> list[Message]:
    """All of them in the order of the sources, each text once."""
    found: dict[str, Message] = {}
    files = [Path(folder, name) for folder, _, names in os.walk(root / "hqc", followlinks=True) for name in names]
    for path in sorted(file for file in files if file.suffix == ".py"):
        name = path.relative_to(root).as_posix()
        if name not in NOT_SAID:
            for message in _Reader(name).read(path.read_text(encoding="utf-8")):
                found.setdefault(message.text, message)
    for text in _SHORTENED:
        found.setdefault(text, Message(text, (), "hqc/metrics/placement.py", 0))
    return list(found.values())


class _Reader:
    """Reads one file. A string counts where it looks like prose, or where a call takes nothing but messages there."""

    def __init__(self, file: str) -> None:
        self._file = file

    def read(self, source: str) -> Iterator[Message]:
        tree = ast.parse(source)
        yield from self._in(tree, said=False)

    def _in(self, node: ast.AST, *, said: bool) -> Iterator[Message]:
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return  # for developers; docstrings
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield from self._message(node, _escaped(node.value), (), said)
            return
        if isinstance(node, ast.JoinedStr):
            text, values = _template(node)
            yield from self._message(node, text, values, said)
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from self._in(part.value, said=False)
            return
        if isinstance(node, ast.Call):
            name = _called(node)
            if name in _QUIET:
                return
            yield from self._in(node.func, said=False)
            if name == "plural" and len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
                yield Message(f"{{0}} {node.args[1].value}{{s}}", (ast.unparse(node.args[0]),), self._file, node.lineno)
            if name == "tr" and isinstance(node.args[0], ast.Constant):  # has names for its values already
                yield Message(node.args[0].value, (), self._file, node.lineno)
                return
            sink = bool(_SINKS.search(name))
            for position, argument in enumerate(node.args):
                yield from self._in(argument, said=sink and position == 0)
            for keyword in node.keywords:
                if keyword.arg not in _QUIET_KEYWORDS:
                    yield from self._in(keyword.value, said=keyword.arg == "hint")
            return
        if isinstance(node, ast.ClassDef) and node.name == "Trait":
            return  # documented in a page
        if isinstance(node, ast.FunctionDef) and any(self._is_rule(each) for each in node.decorator_list):
            statement = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).rstrip(".")
            yield Message(_escaped(statement), (), self._file, node.lineno)
        if isinstance(node, ast.FunctionDef) and any(_is_head(each) for each in ast.walk(node)):
            yield from self._heads(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
            yield from self._in(node.left, said=said)
            yield from self._in(node.right, said=said and isinstance(node.op, ast.Add))
            return
        if isinstance(node, ast.IfExp):
            yield from self._in(node.test, said=False)
            yield from self._in(node.body, said=said)
            yield from self._in(node.orelse, said=said)
            return
        for child in ast.iter_child_nodes(node):
            yield from self._in(child, said=False)

    def _is_rule(self, decorator: ast.expr) -> bool:
        return any(self._file.startswith(room) and _called(decorator) == name for room, name in _RULES.items())

    def _heads(self, function: ast.FunctionDef) -> Iterator[Message]:
        """Heads of a table's columns: what `add_column` is given, and the words that a loop gives it one by one."""
        for node in ast.walk(function):
            words = node.args[:1] if _is_head(node) else node.elts if isinstance(node, (ast.Tuple, ast.List)) else []
            for word in words:
                if (
                    isinstance(word, ast.Constant)
                    and isinstance(word.value, str)
                    and "=" not in word.value
                    and _LETTERS.search(word.value)
                ):
                    yield Message(word.value, (), self._file, word.lineno)

    def _message(self, node: ast.expr, text: str, values: tuple[str, ...], said: bool) -> Iterator[Message]:
        text = text.strip()
        documentation = self._file.startswith("hqc/ir/ops/") and text.endswith(".")
        if documentation or _CODE.search(text) or not _LETTERS.search(re.sub(r"\{\w+\}", "", text)):
            return
        if _PROSE.search(text) or (said and (" " in text or values)):
            yield Message(text, values, self._file, node.lineno)


def _called(node: ast.expr) -> str:
    """The name of a function that is called, or of a decorator."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_head(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_column"


def _escaped(text: str) -> str:
    """A plain string as a template. `%s` of a log record is a place too."""
    numbers = iter(range(100))
    return _PERCENT.sub(lambda _: f"{{{next(numbers)}}}", text.replace("{", "{{").replace("}", "}}"))


def _template(node: ast.JoinedStr) -> tuple[str, tuple[str, ...]]:
    parts: list[str] = []
    values: list[str] = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        elif isinstance(part, ast.FormattedValue):
            if _is_inflection(part.value):
                parts.append("{s}")
            else:
                parts.append(f"{{{len(values)}}}")
                values.append(ast.unparse(part.value))
    return "".join(parts), tuple(values)


def _is_inflection(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Constant):
        return node.value.value in _INFLECTIONS
    if isinstance(node, ast.IfExp):
        return all(isinstance(each, ast.Constant) and each.value in _INFLECTIONS for each in (node.body, node.orelse))
    return False


# --- the catalogue ---------------------------------------------------------------------------------------------------------


def help_texts() -> set[str]:
    """Help of the commands and their options, as `hqc.cli.language` looks it up."""
    import click

    from hqc.cli import main as group
    from hqc.cli.language import key_of

    commands = [group, *filter(None, (group.get_command(None, name) for name in group.list_commands()))]
    found = {text for command in commands for text in (command.help, command.short_help, command.epilog)}
    found |= {param.help for command in commands for param in command.params if isinstance(param, click.Option)}
    return {key_of(text) for text in found if text} | {"Options", "Commands", "Show this message and exit."}


def template_of() -> Catalog:
    """What has to be translated: messages in the order of the sources, then help texts."""
    found = Catalog(domain="hqc", fuzzy=False, creation_date=datetime(2026, 1, 1, tzinfo=timezone.utc))
    said = messages()
    for each in said:
        comments = [", ".join(f"{{{index}}} {value}" for index, value in enumerate(each.values))] if each.values else []
        found.add(each.text, locations=[(each.file, each.line)], auto_comments=comments)
    for text in sorted(help_texts() - {each.text for each in said}):
        found.add(text, locations=[("hqc/cli", 0)])
    return found


def translated() -> Catalog:
    """The catalogue in the tree."""
    with PO.open("rb") as file:
        return read_po(file, locale="zh_CN")


def table_of(catalog: Catalog) -> dict[str, str]:
    """English -> Chinese, of what is translated."""
    return {str(each.id): str(each.string) for each in catalog if each.id and each.string and not each.fuzzy}


def write(catalog: Catalog) -> None:
    """The catalogue, and the table that hqc reads."""
    catalog.revision_date = catalog.creation_date = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with PO.open("wb") as file:
        write_po(file, catalog, width=0, include_lineno=False, ignore_obsolete=True, include_previous=True)
    TABLE.write_text(json.dumps(table_of(catalog), ensure_ascii=False, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def main() -> int:
    """Bring the catalogue up to date; what lacks Chinese afterwards is listed, and the status is 1."""
    catalog = translated()
    catalog.update(template_of())
    write(catalog)
    missing = [str(each.id) for each in catalog if each.id and (not each.string or each.fuzzy)]
    for text in missing:
        sys.stderr.write(f"no Chinese in {PO.name}: {text!r}\n")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
