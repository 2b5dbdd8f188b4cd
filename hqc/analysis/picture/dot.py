"""Pictures in Graphviz's language. The browser's Graphviz and the one of `hqc draw` read the same statements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hqc.analysis.picture.boxes import Box, Group, Picture
from hqc.checked import checked

HEADER = (
    'digraph g { rankdir=TB; bgcolor="transparent"; nodesep=0.2; ranksep=0.35; splines=true; newrank=true; '
    'node [fontname="Helvetica,Arial,sans-serif" fontsize=10 fixedsize=true height=0.46 penwidth=1 style="filled"]; '
    'edge [color="#8a8f98" arrowsize=0.6 penwidth=1]; '
    'graph [fontname="Helvetica,Arial,sans-serif" fontsize=10 labeljust="l" penwidth=0 style="filled"];'
)
SHADES = {  # fill, outline, text: for files that no style sheet comes with; the report's own colours take over there
    "bpu": ("#dcecff", "#2f6fb5", "#10243a"),
    "cpu": ("#ffd9d6", "#c6221c", "#4a0d0a"),
    "boundary": ("#fff3c4", "#a58200", "#4a3b00"),
    "input": ("#eceff3", "#6b7480", "#20262d"),
    "output": ("#eceff3", "#6b7480", "#20262d"),
}
CLUSTER = "#eef5ff"
_SHAPES = {"boundary": "oval", "input": "box", "output": "box"}
_INCHES_PER_CHARACTER = 0.078  # of the widest letters at 10 points, so that the width depends on no machine's fonts


@dataclass(frozen=True)
class Statements:
    """What a layout is put together from: the statement of each box and each group, and the start and end of a shaded subgraph."""

    boxes: tuple[str, ...]
    groups: tuple[str, ...]
    clusters: dict[int, str]


def statements(picture: Picture) -> Statements:
    """The pieces of the picture's text; node names are `b<index>` for boxes and `g<index>` for groups, and so are their ids."""
    boxes = tuple(_statement(f"b{index}", box, box.kind, "") for index, box in enumerate(picture.boxes))
    groups = tuple(
        _statement(f"g{index}", group, f"{group.kind} folded", " peripheries=2") for index, group in enumerate(picture.groups)
    )
    subgraphs = sorted({box.subgraph for box in picture.boxes if box.subgraph is not None})
    return Statements(boxes, groups, {number: _cluster(number) for number in subgraphs})


@checked
def dot_text(picture: Picture, folded: Iterable[str] = ()) -> str:
    """The whole picture, with some modules folded."""
    pieces = statements(picture)
    owners = picture.owners(folded)
    places: dict[int | None, list[str]] = {}
    for key in dict.fromkeys(owners):
        statement = (pieces.groups if key.startswith("g") else pieces.boxes)[int(key[1:])]
        places.setdefault(picture.shown(key).subgraph, []).append(statement)
    lines = [HEADER, *places.pop(None, [])]
    for number, inside in sorted(places.items(), key=lambda item: item[0] or 0):
        lines += [pieces.clusters[number or 0], *inside, "}"]
    drawn: dict[tuple[str, str], str] = {}
    for source, target, kind in picture.edges:
        if owners[source] != owners[target]:
            drawn.setdefault((owners[source], owners[target]), kind)
    lines += [f"{source}->{target} [tooltip={_quoted(kind)}];" for (source, target), kind in drawn.items()]
    return "\n".join([*lines, "}"])


def _statement(name: str, shown: Box | Group, classes: str, more: str) -> str:
    fill, line, text = SHADES[shown.kind]
    lines = [each for each in (shown.title, shown.detail) if each]
    width = max(0.9, _INCHES_PER_CHARACTER * max(map(len, lines)) + 0.2)
    return (
        f'{name} [id="{name}" class="{classes}" shape={_SHAPES.get(shown.kind, "box")} width={width:.2f} label={_label(lines)} '
        f'tooltip={_quoted(" ".join(lines))} fillcolor="{fill}" color="{line}" fontcolor="{text}"{more}];'
    )


def _cluster(number: int) -> str:
    return f'subgraph cluster_{number} {{ id="s{number}" class="subgraph" label="BPU {number}" fillcolor="{CLUSTER}" fontcolor="#2f6fb5";'


def _label(lines: list[str]) -> str:
    return '"' + "\\n".join(_quoted(line)[1:-1] for line in lines) + '"'


def _quoted(text: str) -> str:
    """A string of the language; a backslash in it stands for itself."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
