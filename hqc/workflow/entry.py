"""`hqc.compile`: which way a model goes. No torch here until a torch model, or one to calibrate, comes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hqc.checked import checked
from hqc.errors import CalibrationError, InputError
from hqc.march import March
from hqc.workflow.onnx_files import is_onnx, lower_file
from hqc.workflow.options import CompileOptions

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled

_OWN_SCALES = ("hybrid", "hybrid_dict", "optimize_graph", "min_macs", "min_nodes", "cat_policy", "conflict_policy", "edits")
"""Options that mean something for a file that brings its scales."""


@checked
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    march: str | March,
    calibration_data: Any = None,
    dump_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Compiled:
    """Quantize a float model after training and compile it for a march: `hqc.workflow.compile.compile`, which describes the `options`.

    `model`: a float torch module in any mode, left untouched, or an ONNX file (a path or an `onnx.ModelProto`). `example_inputs`: a
    tensor or tuple of tensors that fixes the shapes; an ONNX file needs it only for sizes that it leaves open. `march`: `bernoulli`,
    `bernoulli2`, `bayes` or `bayes-e`. `calibration_data`: batches of real inputs, or where they lie. `dump_dir`: write the IR after
    every pass there.

    An ONNX file that is quantized already (QuantizeLinear / DequantizeLinear pairs, QLinear operators) needs no `calibration_data`, and no
    torch: its scales are taken. What is returned then is as from `hqc.load`: it simulates, explains, exports and saves, and has no torch
    half. With `calibration_data` the rest is calibrated, and the file's scales of activations stay fixed.
    """
    if calibration_data is None and is_onnx(model):
        return _compiled_with_its_own_scales(model, example_inputs, march, dump_dir, options)
    from hqc.workflow import compile as torch_half

    return torch_half.compile(
        model, example_inputs, march=march, calibration_data=calibration_data, dump_dir=dump_dir, **options
    )


def _compiled_with_its_own_scales(
    model: Any, example_inputs: Any, march: str | March, dump_dir: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Compiled:
    """A quantized ONNX file; `CalibrationError` for one that is not, `InputError` for options of calibration."""
    from hqc.frontend.onnx import is_quantized

    lowered = lower_file(model, example_inputs)
    if not is_quantized(lowered.graph):
        raise CalibrationError(
            "hqc.compile needs calibration_data, at least one batch of real inputs: the file is not quantized and brings no scales"
        )
    options.pop("progress", None)
    more = [name for name, value in options.items() if value and name not in _OWN_SCALES]
    if more:
        raise InputError(
            f"a file with scales of its own is compiled without {', '.join(more)}; give calibration_data, or leave it out"
        )
    from hqc.workflow.quantized_file import compile_quantized

    taken = {"optimize_graph": True, **{name: value for name, value in options.items() if name in _OWN_SCALES}}
    settled = CompileOptions.of(march, **taken)
    return cast("Compiled", compile_quantized(lowered, settled, dump_dir=None if dump_dir is None else Path(dump_dir)))
