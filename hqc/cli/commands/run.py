"""`hqc run`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import counted, json_option, print_json, show
from hqc.cli.data_options import data_spec, place_option, reading_of
from hqc.cli.edge import Unmet
from hqc.cli.language import tr
from hqc.cli.options import compile_model, compile_options


@click.command("run", short_help="Simulate, compare with the float model.")
@compile_options
@place_option("data", "Inputs to run; default: those of --calibration, else random ones.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Batch size.")
@click.option("--min-sqnr", type=float, metavar="DB", help="Exit with status 4 where an output of the simulator has less.")
@json_option
def command(data: tuple[str, ...], batch: int, min_sqnr: float | None, as_json: bool, **given: Any) -> None:
    """Simulate the deployed model and compare it with the float model, output by output."""
    from hqc.analysis.compare import compare_outputs, output_quality, random_inputs
    from hqc.data import load_samples

    spec = data_spec(data or given["calibration"], reading_of(given))
    compiled = compile_model(**given)
    if spec is None:
        names = [value.name for value in compiled.graph.inputs]
        batches = iter([dict(zip(names, (each.numpy() for each in random_inputs(compiled, batch)), strict=True))])
    else:
        batches = load_samples(spec, compiled.graph).batches(batch)
    with counted(tr("simulating")) as advance:
        found, samples = output_quality(compiled, batches, advance)
    if as_json:
        print_json({"samples": samples, "random": spec is None, "outputs": found})
    else:
        source = tr("random") if spec is None else tr("given")
        show(
            compare_outputs(
                found, tr("Outputs against the float model, samples: {count} ({source})", count=samples, source=source)
            )
        )
    worst = min(found, key=lambda each: each.integer_sqnr)
    if min_sqnr is not None and worst.integer_sqnr < min_sqnr:
        raise Unmet(
            tr(
                "output {name} has {found:.1f} dB, --min-sqnr asks for {wanted:g}",
                name=worst.name,
                found=worst.integer_sqnr,
                wanted=min_sqnr,
            )
        )
