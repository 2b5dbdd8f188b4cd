"""The command line `hqc`. Everything here is presentation: the work is in the library."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from hqc.errors import HqcError, InputError, ParseError
from hqc.march import March

if TYPE_CHECKING:
    from hqc.ir import Graph
    from hqc.workflow.compile import Compiled
    from hqc.workflow.options import Form

MARCHES = tuple(march.value for march in March)
FLAVOURS = ("horizon", "runnable", "qdq", "integer")
PIPE_WIDTH = 120  # columns where there is no terminal to ask


def _console(*, stderr: bool = False) -> Console:
    """Made anew for each use, so that it writes to whatever the standard streams are at that time."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def say(text: str) -> None:
    """A line of prose on standard output, as it is."""
    _console().print(text, markup=False, soft_wrap=not _console().is_terminal)


def show(table: Any) -> None:
    _console().print(table)


def note(text: str, style: str = "yellow") -> None:
    """A line beside the result, on standard error."""
    _console(stderr=True).print(Text(text, style=style), soft_wrap=True)


class _Group(click.Group):
    """Turns hqc's errors into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HqcError as error:
            message = Text.assemble(("error: ", "bold red"), str(error))
            _console(stderr=True).print(message, soft_wrap=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hqc")
@click.option("-v", "--verbose", is_flag=True, help="Show what the library logs.")
def main(verbose: bool) -> None:
    """hqc compiles PyTorch models for a BPU with CPU fallback: where every op runs, why, and how good it is."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(message)s",
        handlers=[RichHandler(console=_console(stderr=True), show_path=False)],
    )


@contextmanager
def counted(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error, where that is a terminal; the yielded function advances it by one."""
    console = _console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda *_: progress.advance(task)


march_option = click.option("--march", type=click.Choice(MARCHES), required=True, help="Chip family.")
model_argument = click.argument("model", metavar="FILE.py:NAME")
input_option = click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="N,C,H,W",
    help="Shape of one input (repeat per input); default: the file's example_inputs.",
)


def hybrid_dict(on_cpu: tuple[str, ...], on_bpu: tuple[str, ...]) -> dict[str, Any]:
    """`--cpu` and `--bpu` as the library's `hybrid_dict`; `op:softmax` is every softmax, anything else a module path."""
    return {device: wishes for device, names in (("cpu", on_cpu), ("bpu", on_bpu)) if (wishes := _by_kind(names))}


def _by_kind(names: tuple[str, ...]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in names:
        is_op = name.startswith("op:")
        kinds.setdefault("op" if is_op else "module_name", []).append(name.removeprefix("op:") if is_op else name)
    return kinds


plan_options = (
    click.option("--cpu", "on_cpu", multiple=True, metavar="MODULE", help="Place a module, or every op:NAME, on the CPU (repeatable)."),
    click.option(
        "--bpu", "on_bpu", multiple=True, metavar="MODULE", help="Ask for the BPU for a module, or every op:NAME (repeatable)."
    ),
    click.option("--no-hybrid", is_flag=True, help="The whole model must run on the BPU."),
    click.option("--min-macs", type=click.FloatRange(0), default=0.0, metavar="N", help="BPU subgraphs with less go to the CPU."),
    click.option("--min-nodes", type=click.IntRange(0), default=0, metavar="N", help="BPU subgraphs with fewer operations go to the CPU."),
    click.option(
        "--pass", "passes", multiple=True, metavar="FILE.py:NAME[{OPTIONS}][@after=PASS]",
        help="Run a pass of your own in hqc's pipelines; @before=PASS too (repeatable).",
    ),
)  # fmt: skip


def plan_arguments(
    on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], no_hybrid: bool, min_macs: float, min_nodes: int, passes: tuple[str, ...]
) -> dict[str, Any]:
    """`plan_options` as arguments of `hqc.compile` and `hqc.explain`."""
    from hqc.analysis.user_files import load_edit

    return {
        "hybrid_dict": hybrid_dict(on_cpu, on_bpu),
        "hybrid": not no_hybrid,
        "min_macs": min_macs,
        "min_nodes": min_nodes,
        "edits": [load_edit(spec) for spec in passes],
    }


def compile_model(
    model: str,
    march: str,
    shapes: tuple[str, ...],
    calibration: str | None,
    samples: int,
    dump_dir: str | None = None,
    **plan: Any,
) -> Compiled:
    """What `compile`, `run`, `bench` and `report` share."""
    import hqc
    from hqc.analysis.user_files import calibration_batches, example_inputs, load_model

    module, default = load_model(model)
    inputs = example_inputs(shapes, default)
    batches = calibration_batches(calibration, inputs, samples)
    arguments = plan_arguments(**plan)
    if calibration is None:
        note("No --calibration file: scales come from random inputs, good for structure and speed, not for accuracy.")
    with counted("calibrating", len(batches)) as advance:
        return hqc.compile(
            module, inputs, march=march, calibration_data=batches, dump_dir=dump_dir, progress=advance, **arguments
        )  # fmt: skip


def compile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the arguments of `compile_model`."""
    for decorator in (
        click.option(
            "--samples", type=click.IntRange(1), default=8, show_default=True, metavar="N", help="Calibration batches at most."
        ),
        click.option("--calibration", type=click.Path(), metavar="FILE", help=".npy or .npz file with real inputs; first axis: samples."),
        *reversed(plan_options), input_option, march_option, model_argument,
    ):  # fmt: skip
        function = decorator(function)
    return function


def with_plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the arguments of `plan_arguments`."""
    for decorator in reversed(plan_options):
        function = decorator(function)
    return function


@main.command(short_help="See it all on handwritten digits.")
@click.option("--march", type=click.Choice(MARCHES), default="bayes", show_default=True, help="Chip family.")
@click.option("--out", type=click.Path(), default="out/demo", show_default=True, help="Where dumps and the ONNX file go.")
def demo(march: str, out: str) -> None:
    """Train a small CNN on handwritten digits, compile it, and show what happened."""
    from hqc.analysis.demo import run_demo

    run_demo(_console(), march, Path(out))


@main.command("compile", short_help="Quantize after training, write the ONNX file.")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="model.onnx", show_default=True, help="ONNX file to write.")
@click.option(
    "--flavour",
    type=click.Choice(FLAVOURS),
    default="horizon",
    show_default=True,
    help="horizon: for hb_mapper; runnable: the same nodes for onnxruntime; qdq: standard ops; integer: the simulator's.",
)
@click.option("--force", is_flag=True, help="Overwrite a yaml beside the model that was changed by hand.")
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
def compile_command(output: str, flavour: str, force: bool, **given: Any) -> None:
    """Quantize a model after training and write its ONNX file and the yaml for hb_mapper beside it."""
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    compiled = compile_model(**given)
    make_parent(output)
    report = compiled.export(output, flavour=flavour, overwrite_configuration=force)
    say(compiled.placement.summary())
    say(str(report))


@main.command(short_help="Where every operation runs, and why.")
@model_argument
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; without it all are compared.")
@input_option
@with_plan_options
@click.option("--all", "everything", is_flag=True, help="List BPU operations too.")
@click.option("--thresholds", is_flag=True, help="What sending small BPU subgraphs to the CPU would give (needs --march).")
@click.option(
    "--form",
    type=click.Choice(("ptq", "qat", "calibration")),
    default="ptq",
    show_default=True,
    help="ptq: as hqc.compile does it; qat, calibration: as prepare_qat_fx, prepare_calibration_fx do (needs --march).",
)
def explain(
    model: str, march: str | None, shapes: tuple[str, ...], everything: bool, thresholds: bool, form: Form, **plan: Any
) -> None:
    """Where every operation runs, why, and what would have to change. Needs no training and no data."""
    import hqc
    from hqc.analysis.explain import threshold_table
    from hqc.analysis.user_files import example_inputs, load_model
    from hqc.metrics.advice import advice
    from hqc.workflow.explain import compare
    from hqc.workflow.options import CompileOptions

    if march is None and (everything or thresholds or form != "ptq"):
        raise click.UsageError("--all, --thresholds and --form are about one chip family; give --march")
    module, default = load_model(model)
    inputs = example_inputs(shapes, default)
    arguments = plan_arguments(**plan)
    if march is None:
        comparison = compare(module, inputs, CompileOptions.of(MARCHES[0], **arguments))
        show(comparison.table())
        if comparison.differences:
            show(comparison.difference_table())
        else:
            say("Every operation runs on the same device on all of them.")
        say("For the reasons on one of them, and what would change them: add --march.")
        return
    explanation = hqc.explain(module, inputs, march=march, form=form, **arguments)
    report = explanation.placement
    show(report.table(everything=everything))
    say(report.summary())
    say(explanation.shown)
    if steps := advice(explanation.graph):
        say("\nWhat would help most:")
        for number, step in enumerate(steps, start=1):
            say(f"{number}. {step}")
    elif report.totals.cpu_nodes:
        say("\nNo single change brings more multiply-accumulates to the BPU or saves a crossing.")
    if thresholds:
        show(threshold_table(explanation.graph))


@main.command(short_help="Run passes on IR text.")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@click.option("-p", "--pipeline", required=True, metavar="PASSES", help='Such as "fold-batch-norm,partition{min-macs=1e6}".')
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; default: the one in the text.")
@click.option(
    "--parameters", type=click.Path(), metavar="FILE", help=".safetensors file with the large parameters of the text."
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there, large parameters beside it; default: text out."
)
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
@click.option("--load", "files", multiple=True, metavar="FILE.py", help="File that registers passes of your own (repeatable).")
def opt(
    file: str, pipeline: str, march: str | None, parameters: str | None, output: str | None, dump_dir: str | None,
    files: tuple[str, ...],
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


@main.command(short_help="Simulate, compare with the float model.")
@compile_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Batch size.")
def run(batch: int, **given: Any) -> None:
    """Simulate the deployed model and compare it with the float model, output by output."""
    from hqc.analysis.compare import compare_outputs

    compiled = compile_model(**given)
    show(compare_outputs(compiled, batch))


@main.command(short_help="Time the simulator beside PyTorch.")
@compile_options
@click.option("--top", type=click.IntRange(1), default=15, show_default=True, metavar="N", help="Slowest operations to list.")
def bench(top: int, **given: Any) -> None:
    """Time the simulator beside float32 eager PyTorch, and list the slowest operations."""
    from hqc.analysis.compare import time_simulator

    compiled = compile_model(**given)
    ratio, slowest = time_simulator(compiled, top)
    say(ratio)
    show(slowest)


@main.command(short_help="Which op runs on which chip.")
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; default: all.")
@click.argument("names", nargs=-1)
def ops(march: str | None, names: tuple[str, ...]) -> None:
    """The support matrix: which op runs where, with the rule that decides."""
    from hqc.analysis.op_support import support_table

    show(support_table(march, names))


@main.command(short_help="What this installation can do, and why.")
def doctor() -> None:
    """Print versions, the processor's features, threads, and each engine with the reason why it is or is not used."""
    from hqc.analysis.doctor import doctor_text

    say(doctor_text())


@main.command(short_help="Write one HTML page.")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="report.html", show_default=True, help="HTML file to write.")
def report(output: str, **given: Any) -> None:
    """Write one HTML page: placement with reasons, error per layer, scales."""
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    compiled = compile_model(**given)
    make_parent(output)
    compiled.report(output)
    say(f"wrote {output}")


if __name__ == "__main__":
    main()
