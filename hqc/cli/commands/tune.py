"""`hqc tune`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import console, json_option, note, print_json, say, show
from hqc.cli.edge import Unmet
from hqc.cli.language import tr
from hqc.cli.options import compile_arguments, compile_options


@click.command("tune", short_help="The few changes that bring accuracy back.")
@compile_options
@click.option("--target", required=True, metavar="SCORE", help="What to reach: '35 dB', or 'top1>=0.99*float' with --metric.")
@click.option(
    "--metric", metavar="FILE.py:NAME", help="Your score: a function of a model (a function of inputs); larger is better."
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(("observer", "int32", "int16", "cpu")),
    help="Changes to try (repeatable); default: all.",
)
@click.option("--max-changes", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="Changes at most.")
@click.option("--cpu-macs", type=click.FloatRange(0), metavar="N", help="Multiply-accumulates that may move to the CPU.")
@click.option("--crossings", type=click.IntRange(0), metavar="N", help="More values that may cross between the devices.")
@click.option(
    "--state", type=click.Path(), metavar="FILE", help="Keep measured scores there; an interrupted run goes on from it."
)
@click.option("-o", "--output", type=click.Path(), metavar="FILE.py", help="Write hybrid_dict and qconfig_dict there.")
@json_option
def command(
    target: str, metric: str | None, allow: tuple[str, ...], max_changes: int, cpu_macs: float | None, crossings: int | None,
    state: str | None, output: str | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Rank operations by what quantizing each alone costs, then search the cheapest changes that reach a target.

    Exit status 4 where the target is not reached.
    """
    from hqc.analysis.tune import KINDS, tune
    from hqc.analysis.user_files import load_function
    from hqc.files import check_file_target, make_parent

    if output is not None:
        check_file_target(output)
    module, inputs, arguments = compile_arguments(**given)
    err = console(stderr=True)
    score = None if metric is None else load_function(metric, "a metric")
    found = tune(
        module, inputs, target=target, metric=score, allow=[kind for kind in KINDS if not allow or kind in allow],
        max_changes=max_changes, cpu_macs=cpu_macs, crossings=crossings, state=state,
        progress=lambda line: err.print(line, style="dim", markup=False), **arguments,
    )  # fmt: skip
    if as_json:
        print_json(found.as_dict())
    else:
        show(found.table())
        say(str(found))
        say(f"hybrid_dict = {found.hybrid_dict!r}")
    if output is not None:
        make_parent(output)
        found.write(output)
        note(f"wrote {output}", style="dim")
    if not found.reached:
        raise Unmet(tr("the score is {found:.4g}, --target asks for {wanted:.4g}", found=found.after, wanted=found.threshold))
