"""`python -m benchmarks.onnx_light [NAME ...]`: the classic networks of the onnx package's backend test data, the whole way.

The files of `onnx/backend/test/data/light` hold constants in the place of weights, so that every output is flat; here they get random
weights of a trained network's size. Each is imported (its float graph against onnxruntime), compiled and simulated (against the float
graph, in dB).
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

import hqc
from benchmarks.onnx_zoo import TOLERANCE, error_of
from benchmarks.zoo.whole_way import quiet
from hqc.analysis.compare.outputs import sqnr
from hqc.frontend.onnx import lower_onnx
from hqc.workflow.onnx_module import module_of

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@dataclass
class LightModel:
    """One network. `error`: largest of the float graph to onnxruntime, in ranges. `sqnr`: of the simulator to the float graph, in dB.
    `import_s`: of the file alone, `compile_s`: calibration on one image included."""

    name: str
    error: float
    sqnr: float
    import_s: float
    compile_s: float
    cpu_nodes: int


def with_weights(path: Path, seed: int = 0) -> onnx.ModelProto:
    """The file's network with random weights where it fills tensors with one number."""
    model, random = onnx.load(path), np.random.default_rng(seed)
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        sizes = arrays.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if sizes is None:
            kept.append(node)
            continue
        shape = tuple(int(size) for size in sizes)
        fan = max(1, math.prod(shape[1:]))
        # Vectors are biases and the statistics of batch norms, all of which work near one.
        array = random.normal(0, math.sqrt(2 / fan), shape) if len(shape) > 1 else random.uniform(0.5, 1.0, shape)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def measure(path: Path, folder: Path, march: str) -> LightModel:
    file = folder / path.name
    onnx.save(with_weights(path), file)
    start = time.perf_counter()
    lower_onnx(file)
    seconds = time.perf_counter() - start
    module, zeros = module_of(file)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(zero.shape, generator=generator) for zero in zeros)
    error = error_of(module, file, inputs)
    start = time.perf_counter()
    compiled = hqc.compile(file, inputs, march=march, calibration_data=[inputs])
    compile_s = time.perf_counter() - start
    with torch.no_grad():
        wanted = module(*inputs).numpy()
    found = sqnr(wanted, np.asarray(compiled.simulate(*inputs)))
    return LightModel(path.stem, error, found, seconds, compile_s, compiled.placement.totals.cpu_nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; default: all")
    parser.add_argument("--march", default="bayes")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(4)
    paths = [path for path in sorted(FOLDER.glob("*.onnx")) if not options.names or any(n in path.name for n in options.names)]
    shown = Table(
        "network", "import s", "error", "compile s", "CPU nodes", "simulator, dB", title="The onnx package's light models"
    )
    found = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        for path in paths:
            each = measure(path, Path(folder), options.march)
            found.append(each)
            cells = (
                f"{each.import_s:.2f}",
                f"{each.error:.1e}",
                f"{each.compile_s:.1f}",
                str(each.cpu_nodes),
                f"{each.sqnr:.1f}",
            )
            shown.add_row(each.name, *cells)
    Console(width=120).print(shown)
    exact = sum(each.error <= TOLERANCE for each in found)
    print(f"{len(found)} compiled and simulated on {options.march}; {exact} within {TOLERANCE:g} of the range of onnxruntime")
    raise SystemExit(exact != len(paths))


if __name__ == "__main__":
    main()
