"""`hqc.compile`: which way a model goes. No torch here until a torch model, or one to calibrate, comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hqc.errors import CalibrationError, InputError
from hqc.march import March
from hqc.workflow.onnx_files import is_onnx, lower_file
from hqc.workflow.options import CatPolicy, CompileOptions, ConflictPolicy, Edit

if TYPE_CHECKING:
    from hqc.data import DataSpec, Preprocessing
    from hqc.data.samples import PathLike
    from hqc.workflow.compile import Compiled

Progress = Callable[[int, "int | None"], None]


def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    march: str | March,
    calibration_data: Iterable[Any] | PathLike | DataSpec | None = None,
    preprocessing: Preprocessing | None = None,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    qconfig_dict: Mapping[str, Any] | None = None,
    hybrid: bool = True,
    optimize_graph: bool = True,
    min_macs: float = 0.0,
    min_nodes: int = 0,
    cat_policy: CatPolicy = "output",
    conflict_policy: ConflictPolicy = "requantize",
    edits: Sequence[Edit] = (),
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[Any] = (),
    dump_dir: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Compiled:
    """Quantize a float model after training and compile it for a march.

    `model`: a float torch module in any mode, left untouched, or an ONNX file (a path or an `onnx.ModelProto`).
    `example_inputs`: a tensor or tuple of tensors that fixes the shapes; an ONNX file needs it only for sizes that it leaves
    open. `march`: `bernoulli`, `bernoulli2`, `bayes` or `bayes-e`. `calibration_data`: batches, each a tensor, an array, a
    tuple of positional inputs (labels behind them are left out) or a dict of inputs by name; at least one, all finite. Or the
    path of a folder of pictures or arrays, of a file, or `loader.py:function`: see `hqc.data.DataSpec` and
    docs/calibration_data.md. `preprocessing`: what is done to pictures (batches of a loader are taken as they come); it is
    written into the yaml for hb_mapper too. `hybrid_dict`: operations to place (see docs/placement.md). `hybrid`: without it,
    an operation that the BPU cannot run is an error. `qconfig_dict`: observers per module as for prepare_qat_fx; default:
    min-max. `optimize_graph`: members of a shared-scale group share one scale. `min_macs`, `min_nodes`: BPU subgraphs with less
    go to the CPU, with the reason. `cat_policy`: `output` or `largest`, which scale a cat takes that cannot requantize.
    `conflict_policy`: `requantize` or `error` where a result was observed with another scale than it keeps. `edits`: passes of
    your own, from `hqc.workflow.pipelines.edit`. `concrete_args`: arguments of forward that are constants, with their values.
    `leaf_modules`: modules (classes, paths or instances) that run as they are, on the CPU. `dump_dir`: write the IR after every
    pass there. `progress`: True for a progress bar, or a callable that gets `(batches done, total)`.

    An ONNX file that is quantized already (QuantizeLinear / DequantizeLinear pairs, QLinear operators) needs no `calibration_data`, and no
    torch: its scales are taken. What is returned then is as from `hqc.load`: it simulates, explains, exports and saves, and has no torch
    half. With `calibration_data` the rest is calibrated, and the file's scales stay fixed.
    """
    dumps = None if dump_dir is None else Path(dump_dir)
    options: dict[str, Any] = {
        "march": march,
        "hybrid": hybrid,
        "hybrid_dict": hybrid_dict,
        "qconfig": qconfig_dict or None,
        "optimize_graph": optimize_graph,
        "min_macs": min_macs,
        "min_nodes": min_nodes,
        "cat_policy": cat_policy,
        "conflict_policy": conflict_policy,
        "edits": tuple(edits),
    }
    if is_onnx(model) and (concrete_args or leaf_modules):
        raise InputError("concrete_args and leaf_modules are for torch models; place nodes of an ONNX file with hybrid_dict")
    if calibration_data is None and is_onnx(model):
        return _compiled_with_its_own_scales(model, example_inputs, CompileOptions.of(**options), dumps)
    from hqc.workflow.compile import compile_model

    more: dict[str, Any] = {"concrete_args": concrete_args, "leaf_modules": leaf_modules}
    return compile_model(
        model,
        example_inputs,
        calibration_data,
        preprocessing=preprocessing,
        dump_dir=dumps,
        progress=progress,
        **more,
        **options,
    )


def _compiled_with_its_own_scales(model: Any, example_inputs: Any, options: CompileOptions, dump_dir: Path | None) -> Compiled:
    """A quantized ONNX file; `CalibrationError` for one that is not."""
    from hqc.frontend.onnx import is_quantized

    lowered = lower_file(model, example_inputs)
    if not is_quantized(lowered.graph):
        raise CalibrationError(
            "hqc.compile needs calibration_data, at least one batch of real inputs: the file is not quantized and brings no scales"
        )
    from hqc.workflow.quantized_file import compile_quantized

    return cast("Compiled", compile_quantized(lowered, options, dump_dir=dump_dir))
