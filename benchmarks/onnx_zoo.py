"""`python -m benchmarks.onnx_zoo [NAME ...]`: the zoo through ONNX files beside torch: numbers, plans, and what the exporter refuses.

Each network is written by torch.onnx at opset 11, 13 and 17 and imported: its float graph (run as the torch module that is calibrated and
trained) against onnxruntime, and its plan against that of the torch model, operation by operation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import hqc
from benchmarks.zoo import ZOO
from benchmarks.zoo.registry import ZooEntry
from benchmarks.zoo.whole_way import quiet
from hqc.workflow.explanation import Explanation
from hqc.workflow.onnx_module import module_of

OPSETS = (11, 13, 17)
MARCHES = ("bernoulli2", "bayes")
TOLERANCE = 1e-5
"""Of the range of an output."""


@dataclass
class Comparison:
    """One network at one opset. `refusal`: of the exporter. `error`: largest, in ranges of its output. `plans`: march -> operations that
    only torch's plan (counts above 0) or only the file's has. `seconds`: of the import."""

    name: str
    opset: int
    refusal: str = ""
    error: float = 0.0
    seconds: float = 0.0
    plans: dict[str, dict[tuple[str, ...], int]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return self.error <= TOLERANCE

    @property
    def same_plan(self) -> bool:
        return not any(self.plans.values())


def write(network: nn.Module, inputs: tuple[Tensor, ...], opset: int, path: Path) -> str:
    """Export with torch.onnx (TorchScript); returns why it, or onnxruntime what it wrote, refused, or nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(network, inputs, str(path), opset_version=opset, dynamo=False)
            # The exporter divides negative sizes wrongly (nfnet): the file makes no sense then.
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # neither the exporter's errors nor the runtime's share a base of their own
            return str(error).strip().splitlines()[0]
    return ""


def compare(entry: ZooEntry, opset: int, folder: Path, marches: Sequence[str] = MARCHES) -> Comparison:
    """Export, import, run and place one network."""
    network, inputs, path = entry.build(), entry.inputs(0), folder / f"{entry.name}-{opset}.onnx"
    found = Comparison(entry.name, opset, write(network, inputs, opset, path))
    if found.refusal:
        return found
    start = time.perf_counter()
    module, _ = module_of(path)
    found.seconds = time.perf_counter() - start
    found.error = error_of(module, path, inputs)
    for march in marches:
        plans = hqc.explain(network, inputs, march=march), hqc.explain(path, march=march)
        ours, theirs = map(operations, plans)
        ours.subtract(theirs)
        found.plans[march] = {key: count for key, count in ours.items() if count}
    return found


def error_of(module: nn.Module, path: Path, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference between the imported module and onnxruntime, in ranges of the output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    wanted = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    with torch.no_grad():
        results: Any = module(*inputs)
    got = [results] if isinstance(results, Tensor) else list(results)
    return max(
        float(np.abs(a.numpy().astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-9))
        for a, b in zip(got, wanted, strict=True)
    )


def operations(explanation: Explanation) -> Counter[tuple[str, ...]]:
    """Operations of a plan: what, where, and the type of the result."""
    graph = explanation.graph
    return Counter((row.op, row.device, str(graph.value(row.name).type)) for row in explanation.placement.rows)


def table(found: list[Comparison]) -> Table:
    shown = Table(title="The zoo through ONNX files")
    for column in ("network", "opset", "import s", "error", "plan"):
        shown.add_column(column, justify="left" if column in ("network", "plan") else "right")
    for each in found:
        plan = "the same" if each.same_plan else f"other: {each.plans}"
        cells = (
            (f"{each.seconds:.2f}", f"{each.error:.1e}", plan)
            if not each.refusal
            else ("-", "-", f"torch.onnx: {each.refusal[:90]}")
        )
        shown.add_row(each.name, str(each.opset), *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; default: all")
    names = parser.parse_args().names or list(ZOO)
    onnxruntime.set_default_logger_severity(4)
    found = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name in names:
            found += [compare(ZOO[name], opset, Path(folder)) for opset in OPSETS]
    Console(width=160).print(table(found))
    read = [each for each in found if not each.refusal]
    exact, same = sum(each.exact for each in read), sum(each.same_plan for each in read)
    print(
        f"{len(read)} of {len(found)} written by torch.onnx; {exact} within {TOLERANCE:g} of the range; {same} with the same plan"
    )
    raise SystemExit(not exact == same == len(read))


if __name__ == "__main__":
    main()
