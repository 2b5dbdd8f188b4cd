"""`hqc run`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from hqc.cli.console import counted, json_option, note, print_json, show
from hqc.cli.data_options import data_spec, place_option, reading_of
from hqc.cli.edge import Unmet
from hqc.cli.language import tr
from hqc.cli.options import compile_options
from hqc.cli.saved import compiled_or_loaded, has_float_model, is_saved, takes_saved_models


@takes_saved_models
@click.command("run", short_help="Simulate, compare with the float model.")
@compile_options
@place_option("data", "Inputs to run; default: those of --calibration, else random ones.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Batch size.")
@click.option("--min-sqnr", type=float, metavar="DB", help="Exit with status 4 where an output of the simulator has less.")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE.npz", help="Write what the simulator answers there, by output name."
)
@json_option
def command(data: tuple[str, ...], batch: int, min_sqnr: float | None, output: str | None, as_json: bool, **given: Any) -> None:
    """Simulate the deployed model and compare it with the float model, output by output.

    A file of Compiled.save has no float model, nor has a quantized ONNX file without --calibration: outputs are shown as they are.
    """
    from hqc.errors import InputError
    from hqc.files import check_file_target

    if output is not None:
        check_file_target(output)
    if is_saved(given["model"]) and min_sqnr is not None:
        raise InputError("a saved model has no float model that --min-sqnr could compare with; give the model itself")
    spec = data_spec(data or given["calibration"], reading_of(given))
    model = compiled_or_loaded(**given)
    if not has_float_model(model):
        if min_sqnr is not None:
            raise InputError(
                "a quantized file has no float model that --min-sqnr could compare with; give the float model's file"
            )
        answers = _run_saved(model, spec, batch, as_json)
        _write(output, answers)
        return
    found, answers = _run_compiled(model, spec, batch, as_json)
    _write(output, answers)
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


def _run_compiled(compiled: Any, spec: Any, batch: int, as_json: bool) -> tuple[list[Any], dict[str, list[Any]]]:
    """Quality and answers of every output, beside the float model."""
    from hqc.analysis.compare import compare_outputs, output_quality, random_inputs
    from hqc.data import load_samples

    answers: dict[str, list[Any]] = {name: [] for name in compiled.graph.output_names}
    if spec is None:
        names = [value.name for value in compiled.graph.inputs]
        drawn = (each.numpy() for each in random_inputs(compiled, batch))
        batches: Iterator[Mapping[str, Any]] = iter([dict(zip(names, drawn, strict=True))])
    else:
        batches = load_samples(spec, compiled.graph).batches(batch)
    with counted(tr("simulating")) as advance:
        found, samples = output_quality(compiled, batches, advance, answers)
    if as_json:
        print_json({"samples": samples, "random": spec is None, "outputs": found})
    else:
        source = tr("random") if spec is None else tr("given")
        title = tr("Outputs against the float model, samples: {count} ({source})", count=samples, source=source)
        show(compare_outputs(found, title))
    return found, answers


def _run_saved(model: Any, spec: Any, batch: int, as_json: bool) -> dict[str, list[Any]]:
    """Answers of every output; by default on the calibration samples that the file holds."""
    from hqc.analysis.simulated import random_batch, simulate_all, summary_table
    from hqc.data import load_samples

    random = spec is None and not model.samples
    if spec is not None:
        source, batches = tr("given"), load_samples(spec, model.graph).batches(batch)
    elif random:
        source, batches = tr("random"), iter([random_batch(model, batch)])
    else:
        source, batches = tr("stored"), iter(model.samples)
    with counted(tr("simulating")) as advance:
        found = simulate_all(model, batches, advance)
    samples = len(found[0].array) if found else 0
    if as_json:
        print_json({"samples": samples, "random": random, "outputs": [each.as_dict() for each in found]})
    else:
        show(
            summary_table(found, tr("Outputs of the simulator, samples: {count} ({source})", count=samples, source=tr(source)))
        )
    return {each.name: [each.array] for each in found}


def _write(path: str | None, answers: Mapping[str, Sequence[Any]]) -> None:
    """The answers as an .npz file, if one is asked for."""
    if path is None:
        return
    import numpy as np

    from hqc.files import make_parent, write_file

    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.concatenate([np.atleast_1d(each) for each in found]) for name, found in answers.items()}
    np.savez(buffer, **arrays)
    make_parent(path)
    write_file(path, buffer.getvalue())
    note(tr("wrote {path}", path=path), style="dim")
