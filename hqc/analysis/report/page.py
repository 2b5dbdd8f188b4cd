"""The page itself: data and scripts in one HTML file that needs no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqc.analysis.report.structure import Progress
from hqc.analysis.report.subjects import page_of
from hqc.checked import checked
from hqc.distribution import install_command
from hqc.errors import InputError
from hqc.files import write_file
from hqc.language import in_force, said

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled
    from hqc.workflow.explanation import Explanation
    from hqc.workflow.loaded import LoadedModel

LIBRARIES = ("viz.js", "d3.min.js", "plot.min.js", "tabulator.min.js")
SCRIPTS = ("words.js", "picture.js", "table.js", "operation.js", "passes.js", "main.js")


@checked
def write_report(
    subject: Compiled | LoadedModel | Explanation,
    path: str | os.PathLike[str],
    *,
    measure: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write the page; `InputError` when jinja2 is missing or the path is not writable. Errors are measured on a calibration sample."""
    return write_file(path, render(page_of(subject, measure=measure, progress=progress)).encode())


@checked
def render(data: dict[str, Any]) -> str:
    """The page that shows `data` (of `collect`)."""
    try:
        import jinja2
    except ImportError:
        raise InputError(f"the HTML report needs jinja2; install it with: {install_command('report')}") from None
    missing = [name for name in ("name", "march") if name not in data]
    if missing:
        raise InputError(f"data is what page_of gives; it has no entry {missing[0]}")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hqc.analysis.report", "page"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=f"{data['name']} on {data['march']}",
        styles=_read("vendor", "tabulator.min.css") + _read("page", "report.css"),
        scripts="\n".join(_read("page", name) for name in SCRIPTS),
        libraries=_libraries(),
        words=_read("page", "words.json"),
        data=_packed(
            json.dumps(
                data | {"chinese": _chinese(data), "language": in_force()},
                ensure_ascii=False,
                separators=(",", ":"),
                allow_nan=False,
            )
        ),
    )


def _chinese(data: dict[str, Any]) -> dict[str, str]:
    """The Chinese of what the page quotes from the library: reasons, changes, remarks, advice, warnings."""
    quoted = [*data["advice"], *data["warnings"], *(remark["text"] for remark in data["remarks"])]
    for row in data["operations"]:
        quoted += [*row["why"], row["change"]]
    translated = {text: said(text, "zh") for text in quoted}
    return {text: chinese for text, chinese in translated.items() if text != chinese}


@checked
def notebook_html(subject: Compiled | LoadedModel | Explanation, height: int = 720) -> str:
    """The page in a frame, for a notebook cell: its styles and scripts stay its own, and nothing is run for it."""
    page = render(page_of(subject, measure=False))
    return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:{height}px;border:0" title="hqc"></iframe>'


def _read(*parts: str) -> str:
    return resources.files("hqc.analysis.report").joinpath(*parts).read_text(encoding="utf-8")


@cache
def _libraries() -> str:
    return _packed(json.dumps([_read("vendor", name) for name in LIBRARIES]))


def _packed(text: str) -> str:
    """Compressed, as text that HTML leaves alone; `mtime=0` makes equal reports equal files."""
    return base64.b64encode(gzip.compress(text.encode(errors="backslashreplace"), compresslevel=6, mtime=0)).decode()
