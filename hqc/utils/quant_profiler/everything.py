"""`model_profiler`: all analyses of two stages of one network, as text files and one page."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from torch import nn

from hqc.absent import absent
from hqc.checked import checked
from hqc.errors import InputError
from hqc.files import make_parent, write_file
from hqc.utils.quant_profiler.checks import check_qconfig, check_unfused_operations, get_module_called_count
from hqc.utils.quant_profiler.features import get_raw_features, profile_featuremap
from hqc.utils.quant_profiler.similarity import featuremap_similarity
from hqc.utils.quant_profiler.weights import compare_weights
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.prepared import ObservedGraphModule

MODES = ("FvsQ", "QvsQ", "CvsQ")
"""Float against prepared, prepared against converted, calibrated against trained."""
set_preserve_qat_mode: Any = absent(
    "hqc.utils.quant_profiler.set_preserve_qat_mode",
    "has no counterpart: hqc.analysis.compare.compare(qat_model, data) says what each operation costs by itself, without converting "
    "the model step by step",
)


@checked
def model_profiler(
    model1: nn.Module,
    model2: nn.Module,
    example_inputs: Any,
    mode: str,
    out_dir: str | os.PathLike[str] | None = None,
    kwargs_dict: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Similarity of the two models, statistics, weights, qconfigs, unfused and called-twice operations, in `out_dir` and `profiler.html`.

    `mode`: "FvsQ" (float and prepared), "QvsQ" (prepared and converted) or "CvsQ" (calibrated and trained). `kwargs_dict`: arguments for
    single analyses by their names. Returns the page's path.
    """
    if mode not in MODES:
        raise InputError(f"model_profiler: mode must be one of {', '.join(MODES)}, got {mode!r}")
    folder = Path(out_dir or "horizon_quant_debug")
    more = kwargs_dict or {}
    prepared = model2 if isinstance(model2, ObservedGraphModule) else model1
    featuremap_similarity(model1, model2, example_inputs, out_dir=folder, **more.get("featuremap_similarity", {}))
    for name, model in (("statistic", model1), ("statistic_2", model2)):
        features = get_raw_features(model, example_inputs, **more.get("get_raw_features", {}))
        profile_featuremap(features, out_dir=folder, **{"file_name": name, **more.get("profile_featuremap", {})})
    if isinstance(prepared, ObservedGraphModule):
        check_qconfig(prepared, example_inputs, out_dir=folder, **more.get("check_qconfig", {}))
        check_unfused_operations(prepared, example_inputs, out_dir=folder, **more.get("check_unfused_operations", {}))
        reference = prepared.preparation.float_model
        compare_weights(reference, prepared, out_dir=folder, **more.get("compare_weights", {}))
    if not isinstance(model1, QuantizedGraphModule):
        get_module_called_count(model1, example_inputs, print_tabulate=False, **more.get("get_module_called_count", {}))
    sections = "".join(
        f"<h2>{path.stem}</h2><pre>{html.escape(path.read_text(encoding='utf-8'))}</pre>"
        for path in sorted(folder.glob("*.txt"))
    )
    page = folder / "profiler.html"
    make_parent(page)
    write_file(page, f"<!doctype html><meta charset=utf-8><title>{mode}</title><h1>{mode}</h1>{sections}".encode())
    return page
