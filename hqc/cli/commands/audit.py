"""`hqc audit`."""

from __future__ import annotations

from dataclasses import asdict

import click

from hqc.cli.console import json_option, print_json, say
from hqc.cli.options import input_option, march_option


@click.command("audit", short_help="What hb_mapper would object to in an ONNX file.")
@click.argument("file", metavar="FILE.onnx")
@march_option
@input_option
@json_option
@click.pass_context
def command(context: click.Context, file: str, march: str, shapes: tuple[str, ...], as_json: bool) -> None:
    """Check an ONNX file, whoever wrote it, against what hb_mapper reads. Exit status 1 when there are errors."""
    from hqc.analysis.file_audit import audit_file
    from hqc.analysis.onnx_arguments import shaped_inputs

    report = audit_file(file, march, shaped_inputs(shapes))
    if as_json:
        print_json({"file": report.file, "march": report.march, "findings": [asdict(each) for each in report.findings]})
    else:
        say(str(report))
    if report.errors:
        context.exit(1)
