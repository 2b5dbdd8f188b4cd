"""The reference's calls around its compiler: what can be done here is done, what needs the vendor's compiler says which file to take.

They take a converted model (`convert_fx`), a trace of one (`torch.jit.trace`), or a file of either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hqc.analysis.picture import draw
from hqc.backends import onnx
from hqc.checked import checked
from hqc.errors import ExportError, InputError
from hqc.files import path_text
from hqc.march import get_spec
from hqc.workflow.arguments import as_tuple
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.loaded import LoadedModel
from hqc.workflow.saving import saved_model
from hqc.workflow.traced import program_of


class VendorCompilerError(ExportError):
    """A call that only the vendor's compiler can answer; the sentence says which file to take to it."""


def compiled_model(module: Any, example_inputs: Any) -> LoadedModel:
    """The compiled model in a converted model or a trace of one; `InputError` for anything else."""
    if isinstance(module, QuantizedGraphModule):
        deployment = module.deployment(*(as_tuple(example_inputs) or ()))
        return LoadedModel(saved_model(module.prepared, deployment, [], {}))
    if isinstance(module, torch.jit.ScriptModule):
        found = program_of(module)
        if found is not None:
            return found
    raise InputError(
        f"this call takes a converted model (from convert_fx) or torch.jit.trace of one, got {type(module).__name__}"
    )


@checked
def check_model(
    module: nn.Module,
    example_inputs: Any,
    march: Any = None,
    input_source: Any = "ddr",
    advice: Any = None,
    check_quanti_param: bool = True,
) -> int:
    """Print where every operation runs and why, and what hb_mapper would object to; 0 when nothing is in the way, 1 otherwise.

    `march`: must be that of the model, when given. The other arguments are accepted and without effect.
    """
    del input_source, advice, check_quanti_param
    model = compiled_model(module, example_inputs)
    if march is not None and get_spec(march).name != model.march:
        raise InputError(
            f"the model was converted for {model.march}, not for {get_spec(march).name}; prepare it again for that march"
        )
    findings = onnx.audit(onnx.emit(model.graph, opaque=model.deployment.opaque), get_spec(model.march))
    sys.stdout.write(f"{model.explain()}\n" + "".join(f"{finding}\n" for finding in findings))
    return int(any(finding.severity == "error" for finding in findings))


@checked
def compile_model(module: nn.Module, example_inputs: Any, hbm: str | os.PathLike[str], *args: Any, **kwargs: Any) -> int:
    """Write the files for hb_mapper beside `hbm` and raise `VendorCompilerError` with the command to run on them."""
    del args, kwargs
    _to_the_vendor("compile_model", module, example_inputs, target_of(hbm))
    return 1


@checked
def export_hbir(module: nn.Module, example_inputs: Any, hbir: str | os.PathLike[str], march: Any = None) -> int:
    """Write the files for hb_mapper beside `hbir` and raise `VendorCompilerError` with the command to run on them."""
    del march
    _to_the_vendor("export_hbir", module, example_inputs, target_of(hbir))
    return 1


@checked
def perf_model(
    module: nn.Module,
    example_inputs: Any,
    out_dir: str | os.PathLike[str] = ".",
    name: str | None = None,
    *args: Any,
    **kwargs: Any,
) -> dict[str, Any]:
    """Write the files for hb_mapper into `out_dir` and raise `VendorCompilerError` with the command to run on them."""
    del args, kwargs
    _to_the_vendor("perf_model", module, example_inputs, target_of(out_dir) / (name or "model"))
    return {}


def target_of(path: object) -> Path:
    """`path` as one that can be written to; `InputError` for anything else."""
    return Path(path_text(path, verb="write"))


def _to_the_vendor(call: str, module: nn.Module, example_inputs: Any, target: Path) -> None:
    path = target.with_suffix(".onnx")
    report = compiled_model(module, example_inputs).export(path)
    raise VendorCompilerError(
        f"{call} needs the vendor's compiler: take {report.path} and {report.configuration} to its tool chain and run "
        f"`hb_mapper makertbin --config {Path(str(report.configuration)).name} --model-type onnx`"
    )


@checked
def visualize_model(
    module: nn.Module, example_inputs: Any, save_path: str | os.PathLike[str] | None = None, show: bool = True
) -> Path:
    """Write a picture of the model's graph with devices and scales, by the suffix of `save_path` (default `model.onnx`).

    `.svg` is drawn (it needs the extra `report`), `.onnx` is for Netron, `.dot` and `.json` are as `hqc draw` writes them. `show`: print
    the path.
    """
    path = target_of("model.onnx" if save_path is None else save_path)
    path = path if path.suffix else path.with_suffix(".onnx")
    model = compiled_model(module, example_inputs)
    draw(model.graph, path, opaque=model.deployment.opaque)
    if show:
        sys.stdout.write(f"{path}\n")
    return path


@checked
def export_quantized_onnx(
    model: nn.Module,
    args: Any,
    f: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Write the integers of a converted model, or of a trace of one, as an ONNX file that onnxruntime runs (flavour `integer`).

    Further keywords are those of `export_to_onnx`.
    """
    from hqc.utils.onnx_helper import export_to_onnx

    if isinstance(model, torch.jit.ScriptModule):
        found = compiled_model(model, args)
        if input_names or output_names:
            raise InputError(
                "export_quantized_onnx: a trace has no names to change; export the converted model it was made from"
            )
        return found.export(f, flavour="integer")
    if not isinstance(model, QuantizedGraphModule):
        raise InputError(f"export_quantized_onnx takes a converted model, from convert_fx, got {type(model).__name__}")
    return export_to_onnx(model, args, f, input_names=input_names, output_names=output_names, **kwargs)
