"""What an opaque operation costs, and the sentence about one that no file can hold. No torch here."""

from __future__ import annotations

from collections.abc import Callable

from hqc.errors import ExportError
from hqc.ir import Graph, Node, Trait
from hqc.passes.base import Remark


def note_form(node: Node, macs: Callable[[Node], int]) -> None:
    """Write into an opaque node what it costs or, where no file can hold it, the sentence that says so.

    It is what explain shows, what prepare warns of, and what export refuses with.
    """
    try:
        node.attributes["macs"] = macs(node)
    except ExportError as error:
        node.attributes["unwritable"] = str(error)


def unwritable_remarks(graph: Graph) -> list[Remark]:
    """A warning for each operation that no file can hold."""
    found = [str(node.attributes["unwritable"]) for node in graph.nodes if node.op.has(Trait.OPAQUE)]
    return [Remark("export", sentence, severity="warning") for sentence in found if sentence]
