"""The command line `hqc`. Everything here is presentation: the work is in the library."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hqc.errors import HqcError, InputError

if TYPE_CHECKING:
    from hqc.compiler import Compiled

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")
console = Console(soft_wrap=False)
errors = Console(stderr=True)


class _Group(click.Group):
    """Turns hqc's errors into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HqcError as error:
            errors.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
            ctx.exit(1)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hqc")
@click.option("-v", "--verbose", is_flag=True, help="Show what the library logs.")
def main(verbose: bool) -> None:
    """hqc compiles PyTorch models for a BPU with CPU fallback: where every op runs, why, and how good it is."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False)],
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


@contextmanager
def counted(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar; the yielded function advances it by one."""
    with _progress() as progress:
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
cpu_option = click.option(
    "--cpu", "on_cpu", multiple=True, metavar="MODULE", help="Place a module on the CPU by its path (repeatable)."
)
bpu_option = click.option(
    "--bpu", "on_bpu", multiple=True, metavar="MODULE", help="Ask for the BPU for an opt-in operation (repeatable)."
)


def load_model(spec: str) -> tuple[Any, Any]:
    """`FILE.py:NAME` -> (module, example inputs or None). NAME is a module, or a class or function without required arguments.

    A function may return the module or `(module, example_inputs)`; the file may define `example_inputs` beside it.
    """
    from torch import nn

    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise InputError(f"give the model as FILE.py:NAME, got {spec}")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}")
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{path} has no {name}; it defines {', '.join(known) or 'nothing callable'}")
    found = getattr(module, name)
    try:
        built = found if isinstance(found, nn.Module) else found()
    except TypeError as error:
        raise InputError(f"{name} in {path} cannot be called without arguments: {error}") from error
    inputs = getattr(module, "example_inputs", None)
    if isinstance(built, tuple) and len(built) == 2:
        built, inputs = built
    if not isinstance(built, nn.Module):
        raise InputError(f"{name} in {path} gives {type(built).__name__}, not a torch.nn.Module")
    return built, inputs() if callable(inputs) else inputs


def example_inputs(shapes: tuple[str, ...], default: Any) -> Any:
    """Random inputs of the given shapes (fixed seed), or the model file's own."""
    import torch

    if not shapes:
        if default is None:
            raise InputError("the input's shape is not known; give --input N,C,H,W or define example_inputs in the file")
        return default
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for text in shapes:
        try:
            sizes = [int(part) for part in text.replace("x", ",").split(",")]
        except ValueError:
            raise InputError(f"--input takes sizes like 1,3,224,224, got {text}") from None
        if not sizes or min(sizes) < 1:
            raise InputError(f"--input takes positive sizes, got {text}")
        inputs.append(torch.rand(sizes, generator=generator))
    return tuple(inputs)


def hybrid_dict(on_cpu: tuple[str, ...], on_bpu: tuple[str, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if on_cpu:
        result["module_name"] = list(on_cpu)
    if on_bpu:
        result["bpu"] = {"module_name": list(on_bpu)}
    return result


def calibration_batches(path: str | None, inputs: Any, count: int) -> list[Any]:
    """Batches from an .npy (first axis: samples) or .npz file (one array per input); random ones when there is no file."""
    import numpy as np
    import torch

    from hqc.quantization.prepared import as_tuple

    example = as_tuple(inputs) or ()
    if path is None:
        generator = torch.Generator().manual_seed(1)
        return [tuple(torch.rand(x.shape, generator=generator) for x in example) for _ in range(count)]
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as .npy or .npz: {error}") from error
    arrays = [loaded[name] for name in loaded.files] if hasattr(loaded, "files") else [loaded]
    if len(arrays) != len(example):
        raise InputError(f"{path} holds {len(arrays)} arrays, the model takes {len(example)} inputs")
    batch = example[0].shape[0]
    total = min(len(arrays[0]), count * batch)
    if total < 1:
        raise InputError(f"{path} holds no samples")
    return [tuple(torch.from_numpy(a[i : i + batch]).float() for a in arrays) for i in range(0, total, batch)]


def compile_model(
    model: str,
    march: str,
    shapes: tuple[str, ...],
    on_cpu: tuple[str, ...],
    on_bpu: tuple[str, ...],
    calibration: str | None,
    samples: int,
    dump_dir: str | None = None,
) -> Compiled:
    """What `compile`, `run`, `bench` and `report` share."""
    import hqc

    module, default = load_model(model)
    inputs = example_inputs(shapes, default)
    batches = calibration_batches(calibration, inputs, samples)
    if calibration is None:
        console.print(
            "[yellow]No --calibration file: scales come from random inputs, good for structure and speed, not for accuracy.[/]"
        )
    with counted("calibrating", len(batches)) as advance:
        return hqc.compile(
            module, inputs, march=march, calibration_data=batches, hybrid_dict=hybrid_dict(on_cpu, on_bpu), dump_dir=dump_dir,
            progress=advance,
        )  # fmt: skip


def compile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the arguments of `compile_model`."""
    for decorator in (
        click.option("--samples", default=8, show_default=True, help="Calibration batches at most."),
        click.option("--calibration", type=click.Path(), help=".npy or .npz file with real inputs."),
        bpu_option, cpu_option, input_option, march_option, model_argument,
    ):  # fmt: skip
        function = decorator(function)
    return function


@main.command()
@click.option("--march", type=click.Choice(MARCHES), default="bayes", show_default=True, help="Chip family.")
@click.option("--out", type=click.Path(), default="out/demo", show_default=True, help="Where dumps and the ONNX file go.")
def demo(march: str, out: str) -> None:
    """Train a small CNN on handwritten digits, compile it, and show what happened."""
    from hqc.analysis.demo import run_demo

    run_demo(console, march, Path(out))


@main.command("compile")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="model.onnx", show_default=True, help="ONNX file to write.")
@click.option("--flavour", type=click.Choice(["horizon", "runnable", "qdq", "integer"]), default="horizon", show_default=True)
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
def compile_command(
    model: str, march: str, shapes: tuple[str, ...], on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], calibration: str | None,
    samples: int, output: str, flavour: str, dump_dir: str | None,
) -> None:  # fmt: skip
    """Quantize a model after training and write its ONNX file and hb_mapper.yaml."""
    compiled = compile_model(model, march, shapes, on_cpu, on_bpu, calibration, samples, dump_dir)
    report = compiled.export(output, flavour=flavour)
    console.print(compiled.placement.summary(), highlight=False, markup=False)
    console.print(str(report), highlight=False, markup=False)


@main.command()
@model_argument
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; without it all four are compared.")
@input_option
@cpu_option
@bpu_option
@click.option("--all", "everything", is_flag=True, help="List BPU operations too.")
def explain(
    model: str, march: str | None, shapes: tuple[str, ...], on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], everything: bool
) -> None:
    """Where every operation runs, why, and what would have to change. Needs no training and no data."""
    from hqc.analysis.explain import compare, plan

    module, default = load_model(model)
    inputs = example_inputs(shapes, default)
    wishes = hybrid_dict(on_cpu, on_bpu)
    if march is None:
        comparison = compare(module, inputs, wishes)
        console.print(comparison.table())
        console.print(comparison.difference_table())
        return
    report = plan(module, inputs, march, wishes)
    console.print(report.table(everything=everything))
    console.print(report.summary(), highlight=False, markup=False)


@main.command()
@click.argument("file", type=click.File("r"), default="-")
@click.option("-p", "--pipeline", required=True, metavar="PASSES", help='Such as "fold-batch-norm,partition{min-macs=1e6}".')
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; default: the one in the text.")
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
def opt(file: Any, pipeline: str, march: str | None, dump_dir: str | None) -> None:
    """Run passes on IR text: text in, text out; remarks go to standard error."""
    from hqc.ir import load, parse
    from hqc.march import get_spec
    from hqc.passes import PassContext, parse_pipeline

    name = getattr(file, "name", "<stdin>")
    graph = load(name) if Path(name).is_file() else parse(file.read(), file=name)
    chosen = march or graph.march
    if chosen is None:
        raise InputError("the text names no march; give --march")
    graph.march = chosen
    report = parse_pipeline(pipeline).run(graph, PassContext(get_spec(chosen)), dump_dir=dump_dir)
    click.echo(str(graph))
    for remark in report.remarks:
        errors.print(_escape(str(remark)), highlight=False)


@main.command()
@compile_options
@click.option("--batch", default=1, show_default=True, help="Batch size.")
def run(
    model: str, march: str, shapes: tuple[str, ...], on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], calibration: str | None,
    samples: int, batch: int,
) -> None:  # fmt: skip
    """Simulate the deployed model and compare it with the float model, output by output."""
    from hqc.analysis.compare import compare_outputs

    compiled = compile_model(model, march, shapes, on_cpu, on_bpu, calibration, samples)
    console.print(compare_outputs(compiled, batch))


@main.command()
@compile_options
@click.option("--top", default=15, show_default=True, help="Slowest operations to list.")
def bench(
    model: str, march: str, shapes: tuple[str, ...], on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], calibration: str | None,
    samples: int, top: int,
) -> None:  # fmt: skip
    """Time the simulator beside float32 eager PyTorch, and list the slowest operations."""
    from hqc.analysis.compare import time_simulator

    compiled = compile_model(model, march, shapes, on_cpu, on_bpu, calibration, samples)
    for part in time_simulator(compiled, top):
        console.print(part)


@main.command()
@click.option("--march", type=click.Choice(MARCHES), help="Chip family; default: all.")
@click.argument("names", nargs=-1)
def ops(march: str | None, names: tuple[str, ...]) -> None:
    """The support matrix: which op runs where, with the rule that decides."""
    from hqc.analysis.op_support import support_table

    console.print(support_table(march, names))


@main.command()
@compile_options
@click.option("-o", "--output", type=click.Path(), default="report.html", show_default=True, help="HTML file to write.")
def report(
    model: str, march: str, shapes: tuple[str, ...], on_cpu: tuple[str, ...], on_bpu: tuple[str, ...], calibration: str | None,
    samples: int, output: str,
) -> None:  # fmt: skip
    """Write one HTML page: placement with reasons, error per layer, scales."""
    compiled = compile_model(model, march, shapes, on_cpu, on_bpu, calibration, samples)
    compiled.report(output)
    console.print(f"wrote {output}")


if __name__ == "__main__":
    main()
