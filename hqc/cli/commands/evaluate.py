"""`hqc evaluate`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hqc.cli.console import console, json_option, note, print_json, show
from hqc.cli.data_options import data_spec, place_option, reading_of
from hqc.cli.options import compile_options
from hqc.cli.saved import compiled_or_loaded, has_float_model, takes_saved_models

if TYPE_CHECKING:
    from hqc.analysis.evaluate import Metric, Progress

RANDOM_BATCHES = 8


@takes_saved_models
@click.command("evaluate", short_help="Accuracy of the float, the fake-quantized and the integer model.")
@compile_options
@place_option("data", "What to evaluate on, with labels.")
@click.option(
    "--metric", default="top1", show_default=True, metavar="NAME|FILE.py:NAME",
    help="top1, top5, or a function of outputs and labels that gives a number per sample (docs/many_processes.md).",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), metavar="N", help="Samples per batch; default: what the model is compiled for."
)
@click.option("--variants", metavar="V[,V]", help="Of float, fake-quant, integer; default: all.")
@json_option
@click.option("--resume", type=click.Path(), metavar="FILE", help="Keep what is done there, and go on from it.")
def command(
    data: tuple[str, ...],
    metric: str,
    batch: int | None,
    variants: str | None,
    resume: str | None,
    workers: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Evaluate a model, or a file of Compiled.save, on labelled data.

    Without --data, random inputs carry what the float model answers: the table says how often the quantized models agree. The same
    command under torchrun shares the data among its processes; the numbers are those of one process.
    """
    from hqc.analysis.evaluate import evaluate
    from hqc.errors import InputError

    with _ranks() as first:
        reading = reading_of(given)
        model = compiled_or_loaded(workers=workers, **given)
        spec = data_spec(data, reading)
        if spec is None and not has_float_model(model):
            raise InputError(
                "a saved model, or a quantized file, is evaluated on --data: it has no float model whose answers random inputs could carry"
            )
        batches = _random(model, batch, reading["samples"]) if spec is None else _labelled(spec, model, batch)
        with _line(first) as progress:
            found = evaluate(
                model, batches, _metric(metric), workers=workers, resume=resume, progress=progress,
                variants=None if variants is None else [part.strip() for part in variants.split(",")],
            )  # fmt: skip
        if first and as_json:
            print_json({"metric": metric, "samples": found.samples, "seconds": found.seconds, "values": found.values})
        elif first:
            show(found.table())
            again = f", {found.resumed} batches from {resume}" if found.resumed else ""
            note(f"{found.samples} samples in {found.seconds:.1f} s{again}", style="dim")


def _metric(text: str) -> Metric | str:
    if ":" not in text:
        return text
    from hqc.errors import InputError
    from hqc.python_files import find_object

    found, _, place = find_object(text, "the metric")
    made = found() if isinstance(found, type) else found
    if not callable(made):
        raise InputError(f"{text} in {place} is no function of outputs and labels")
    return made  # type: ignore[no-any-return]


def _labelled(spec: Any, model: Any, batch: int | None) -> Iterator[tuple[Any, Any]]:
    from dataclasses import fields

    from hqc.data import load_samples
    from hqc.errors import InputError

    options = {each.name: getattr(spec, each.name) for each in fields(spec) if each.name != "place"}
    samples = load_samples(spec.place, model.graph, **options)
    for inputs, labels in samples.labelled(batch):
        if labels is None:
            raise InputError(
                f"{samples.what} has no labels; give a loader of (inputs, labels), an .npz with labels, or pictures in folders"
            )
        yield tuple(inputs.values()), labels


def _random(model: Any, batch: int | None, samples: int | None) -> Iterator[tuple[Any, Any]]:
    """Random inputs, labelled by the float model."""
    from hqc.analysis.evaluate import first_array, float_outputs
    from hqc.analysis.user_files import random_batches

    note("No --data: random inputs, labelled with what the float model answers; the table says how often the others agree.")
    shape = model.graph.inputs[0].shape or (1,)
    size = batch or shape[0]
    count = RANDOM_BATCHES if samples is None else -(-samples // size)
    import torch

    example = tuple(
        torch.zeros((size, *(value.shape or ())[1:]), dtype=getattr(torch, value.type.dtype.numpy.name))
        for value in model.graph.inputs
    )
    for inputs in random_batches(example, count):
        scores = first_array(float_outputs(model, inputs))
        yield inputs, scores.reshape(len(scores), -1).argmax(1)


@contextmanager
def _line(first: bool) -> Iterator[Progress | None]:
    """One line of progress on standard error, where that is a terminal."""
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn, TimeElapsedColumn

    err = console(stderr=True)
    with Bar(
        TextColumn("evaluating: {task.description}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal or not first,
    ) as bar:
        task = bar.add_task("0 samples")
        yield lambda done, rate: bar.update(task, description=f"{done:,} samples, {rate:.1f} a second")


@contextmanager
def _ranks() -> Iterator[bool]:
    """Inside, the processes that torchrun started know each other; yields True for the one that prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        if own:
            dist.destroy_process_group()
