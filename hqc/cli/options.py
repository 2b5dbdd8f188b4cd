"""Options and arguments that several commands share, and what they become in the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import click

from hqc.cli.console import counted, note, working
from hqc.cli.data_options import data_spec, place_option, preprocessing_of, take_reading, with_reading_options
from hqc.cli.language import tr
from hqc.march import March, all_specs
from hqc.workflow.effort import Effort, Step

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled

MARCHES = tuple(march.value for march in March)
FLAVOURS = ("horizon", "runnable", "qdq", "integer")
RANDOM_SAMPLES = 8


class MarchType(click.Choice[str]):
    """A march, or the name of a chip of it."""

    def __init__(self) -> None:
        super().__init__(MARCHES, case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The march's name."""
        chips = {chip.lower(): spec.name for spec in all_specs() for chip in spec.chips}
        return super().convert(chips.get(str(value).lower(), value), param, ctx)


CHIP = "Chip family, or a chip of it (x2, j2, x3, j3, j5, x5)"
march_option = click.option("--march", type=MarchType(), required=True, help=f"{CHIP}.")
model_argument = click.argument("model", metavar="MODEL")
checkpoint_option = click.option(
    "--checkpoint", type=click.Path(), metavar="FILE", help="Weights for a model in Python: .pt or .safetensors, weights only."
)
input_option = click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="[NAME=]N,C,H,W",
    help="Shape of one input (repeat per input), with :int64 for integers; default: the file's example_inputs, "
    "or the sizes that an ONNX file states.",
)


workers_option = click.option(
    "--workers", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N", help="Processes that share the data."
)


split_option = click.option(
    "--split-shared", is_flag=True, help="Give every call of a module that is called several times a module of its own."
)


def hybrid_dict(on_cpu: tuple[str, ...], on_bpu: tuple[str, ...]) -> dict[str, Any]:
    """`--cpu` and `--bpu` as the library's `hybrid_dict`; `op:softmax` is every softmax, `node:/conv/Conv` a node (or tensor) of an
    ONNX file or of the trace, anything else a module path."""
    return {device: wishes for device, names in (("cpu", on_cpu), ("bpu", on_bpu)) if (wishes := _by_kind(names))}


def _by_kind(names: tuple[str, ...]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in names:
        prefix, sign, rest = name.partition(":")
        kind = {"op": "op", "node": "node_name"}.get(prefix) if sign else None
        kinds.setdefault(kind or "module_name", []).append(rest if kind else name)
    return kinds


plan_options = (
    click.option(
        "--cpu", "on_cpu", multiple=True, metavar="MODULE", help="Place a module, every op:NAME, or node:NAME, on the CPU (repeatable)."
    ),
    click.option(
        "--bpu", "on_bpu", multiple=True, metavar="MODULE", help="Ask for the BPU for a module, every op:NAME, or node:NAME (repeatable)."
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
    edits = []
    if passes:
        from hqc.analysis.user_files import load_edit

        edits = [load_edit(spec) for spec in passes]
    return {
        "hybrid_dict": hybrid_dict(on_cpu, on_bpu),
        "hybrid": not no_hybrid,
        "min_macs": min_macs,
        "min_nodes": min_nodes,
        "edits": edits,
    }


OBSERVERS = ("absolute_min_max", "min_max", "percentile", "mse", "kl", "mix")
quantization_options = (
    click.option(
        "--effort", type=click.Choice(get_args(Effort)), default="fast", show_default=True,
        help="good: tune weights and biases on the calibration data, keep what gains; best: twice as long.",
    ),
    click.option("--without", multiple=True, type=click.Choice(get_args(Step)), help="A step of the effort to leave out (repeatable)."),
    click.option("--observer", type=click.Choice(OBSERVERS), help="How activation ranges are found; default: hqc.compile's."),
    click.option("--activations", type=click.Choice(("int8", "int16")), help="Type of all activations; default: int8."),
    click.option(
        "--cat-policy", type=click.Choice(("output", "largest")), default="output", show_default=True,
        help="Which scale a cat takes that cannot requantize.",
    ),
    click.option(
        "--conflict-policy", type=click.Choice(("requantize", "error")), default="requantize", show_default=True,
        help="Where a result was observed with another scale than it keeps.",
    ),
)  # fmt: skip


QUANTIZATION = ("effort", "without", "observer", "activations", "cat_policy", "conflict_policy")
"""Names of the arguments that `quantization_options` give."""


def quantization_arguments(observer: str | None, activations: str | None, **found: Any) -> dict[str, Any]:
    """`quantization_options` as arguments of `hqc.compile`; what the user does not name is as in its default qconfig."""
    if observer is not None or activations is not None:
        from hqc.quantization import get_default_qconfig

        kwargs = {"dtype": f"q{activations}"} if activations is not None else None
        qconfig = get_default_qconfig(activation_observer=observer or "mse", weight_observer="mse", activation_qkwargs=kwargs)
        found["qconfig_dict"] = {"": qconfig}
    return found


def compile_arguments(
    model: str,
    march: str,
    shapes: tuple[str, ...],
    calibration: tuple[str, ...],
    checkpoint: str | None = None,
    workers: int = 1,
    split_shared: bool = False,
    file_scales: bool = False,
    **rest: Any,
) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its example inputs, and the other arguments of `hqc.compile`.

    `file_scales`: a quantized file without calibration data is compiled with the scales that it brings, and has no torch half then.
    """
    with working(tr("reading {model}", model=model)):
        from hqc.analysis.onnx_arguments import brings_scales
        from hqc.analysis.user_files import model_and_inputs, random_batches

        reading = take_reading(rest)
        data = data_spec(calibration, reading)
        module, inputs = model_and_inputs(model, shapes, checkpoint)
        module = split_modules(module, inputs) if split_shared else module
        quantized = data is None and brings_scales(module, inputs)
    if quantized and file_scales:
        note(tr("The file is quantized: its own scales are taken."))
        quantization = {
            name: value for name in QUANTIZATION if (value := rest.pop(name)) and (name, value) != ("effort", "fast")
        }
        arguments = {
            **quantization_arguments(**{"observer": None, "activations": None, **quantization}),
            **plan_arguments(**rest),
        }
        return module, inputs, {"march": march, "preprocessing": preprocessing_of(reading), **arguments}
    quantization = {name: rest.pop(name) for name in QUANTIZATION}
    arguments = {**quantization_arguments(**quantization), **plan_arguments(**rest)}
    if quantized:
        note(tr("No --calibration data: what the quantized file brings no scale for gets one from random inputs."))
    elif data is None:
        note(tr("No --calibration data: scales come from random inputs, good for structure and speed, not for accuracy."))
    batches = random_batches(inputs, reading["samples"] or RANDOM_SAMPLES) if data is None else data
    more = {"march": march, "preprocessing": preprocessing_of(reading), "calibration_data": batches, "workers": workers}
    return module, inputs, {**more, **arguments}


def split_modules(module: Any, inputs: Any) -> Any:
    """The model with a module of its own for every call, and a line for each module that was called several times."""
    from hqc.errors import InputError
    from hqc.workflow.split_shared import SPLIT_META
    from hqc.workflow.split_shared import split_shared as split

    if isinstance(module, str):
        raise InputError(f"{module} is an ONNX file, which has no modules; --split-shared is for models in Python")
    found = split(module, inputs)
    for path, copies in found.meta[SPLIT_META].items():
        note(tr("{module} has copies: {copies}", module=path, copies=", ".join(copies)), style="dim")
    return found


def compile_model(dump_dir: str | None = None, **given: Any) -> Compiled:
    """What `compile`, `run`, `bench` and `report` share."""
    module, inputs, arguments = compile_arguments(**given)
    import hqc

    with counted(tr("calibrating")) as advance:
        compiled = hqc.compile(module, inputs, dump_dir=dump_dir, progress=advance, **arguments)
    if given["calibration"]:
        note(tr("calibrated with {data}", data=compiled.calibration), style="dim")
    for remark in compiled.remarks:
        if remark.pass_name == "effort":
            note(remark.message, style="dim")
    return compiled


def compile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the arguments of `compile_model`."""
    function = workers_option(with_reading_options(split_option(function)))
    function = place_option("calibration", "Real inputs that the scales come from.")(function)
    for decorator in reversed(quantization_options):
        function = decorator(function)
    function = with_plan_options(function)
    return model_argument(checkpoint_option(march_option(input_option(function))))


def with_plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the arguments of `plan_arguments`."""
    for decorator in reversed(plan_options):
        function = decorator(function)
    return function
