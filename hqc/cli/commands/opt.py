"""`hqc opt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hqc.cli.console import json_option, note, print_json
from hqc.cli.options import CHIP, MarchType
from hqc.errors import InputError, ParseError

if TYPE_CHECKING:
    from hqc.ir import Graph


@click.command("opt", short_help="Run passes on IR text.")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@click.option("-p", "--pipeline", required=True, metavar="PASSES", help='Such as "fold-batch-norm,partition{min-macs=1e6}".')
@click.option("--march", type=MarchType(), help=f"{CHIP}; default: the one in the text.")
@click.option(
    "--parameters", type=click.Path(), metavar="FILE", help=".safetensors file with the large parameters of the text."
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there, large parameters beside it; default: text out."
)
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
@click.option("--load", "files", multiple=True, metavar="FILE.py", help="File that registers passes of your own (repeatable).")
@json_option
def command(
    file: str, pipeline: str, march: str | None, parameters: str | None, output: str | None, dump_dir: str | None,
    files: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Run passes on IR text: text in, text out; remarks go to standard error."""
    from hqc.files import check_file_target, make_parent
    from hqc.ir import save
    from hqc.march import get_spec
    from hqc.passes import PassContext, parse_pipeline

    if output is not None:
        check_file_target(output)
    if files:
        from hqc.analysis.user_files import load_passes

        for each in files:
            load_passes(each)
    passes = parse_pipeline(pipeline)
    graph = _read_graph(file, parameters)
    chosen = march or graph.march
    if chosen is None:
        raise InputError("the text names no march; give --march")
    graph.march = chosen
    report = passes.run(graph, PassContext(get_spec(chosen)), dump_dir=dump_dir)
    if output is None and as_json:
        print_json({"graph": str(graph), "remarks": report.remarks})
        return
    if output is None:
        click.echo(str(graph), nl=False)
    else:
        make_parent(output)
        save(graph, output)
    for remark in report.remarks:
        note(str(remark), style="")


def _read_graph(file: str, parameters: str | None) -> Graph:
    """The graph in a file (large parameters beside it, or in `parameters`), or in standard input where `file` is `-`."""
    from hqc.ir import load, parse
    from hqc.ir.sidecar import read_sidecar

    if parameters is None and file != "-":
        return load(file)
    arrays = None if parameters is None else read_sidecar(parameters)
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    try:
        return parse(text, parameters=arrays, file="<stdin>" if file == "-" else file)
    except ParseError as error:
        if arrays is None and "not in this text" in str(error):
            raise InputError(
                f"{error}\ngive the file that holds them with --parameters, or name the file instead of a pipe"
            ) from None
        raise
