"""One HTML page about a compiled model: placement with reasons, error per layer, scales, remarks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hqc.analysis.layers import layer_errors
from hqc.backends.onnx.verify import sample_arrays
from hqc.distribution import install_command
from hqc.errors import InputError
from hqc.files import write_file
from hqc.metrics.advice import advice
from hqc.workflow.compile import Compiled


def write_report(compiled: Compiled, path: str | os.PathLike[str]) -> Path:
    """Write the page; `InputError` when jinja2 is missing or the path is not writable. Layer errors are on a calibration sample."""
    try:
        import jinja2
    except ImportError:
        raise InputError(f"the HTML report needs jinja2; install it with: {install_command('report')}") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hqc.analysis", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(**_facts(compiled))
    return write_file(path, page.encode())


def _facts(compiled: Compiled) -> dict[str, Any]:
    arrays = sample_arrays(compiled.graph, compiled.samples[0] if compiled.samples else None)
    errors = {row.name: row for row in layer_errors(compiled.deployment, arrays)}
    placement = compiled.placement
    scales = [
        (
            value.name,
            value.quant.dtype.value,
            float(np.min(value.quant.scale)),
            float(np.max(value.quant.scale)),
            value.quant.fixed,
        )
        for node in compiled.graph.nodes
        for value in node.results
        if value.quant is not None
    ]
    return {
        "name": compiled.graph.name,
        "march": compiled.march,
        "totals": placement.totals,
        "rows": [(row, placement.why(row)) for row in placement.rows],
        "advice": advice(compiled.graph),
        "errors": errors,
        "scales": scales,
        "remarks": compiled.remarks,
    }
