"""The simulator in a process: what it loads, and what a fork does to it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_importing_the_simulator_loads_no_framework():
    code = (
        "import sys, hqc.backends.bpu, hqc.backends.bpu.engines as e\n"
        "e.get_engine('auto')\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_program_still_runs_in_a_forked_child():
    """Data loaders fork; the parent's worker threads do not exist in the child, and waiting for them would hang."""
    code = """
import os
import signal
import numpy as np
from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import blas
from hqc.ir import DType, Graph, TensorType
graph = Graph("g", "bayes")
x = graph.add_input("x", TensorType(DType.INT8, (1, 16, 40, 40)))
weight = graph.add_parameter("w", np.ones((32, 16, 3, 3), np.int8))
rows = graph.add_parameter("r", arithmetic.requant_params(np.float64(0.01)).array)
graph.set_outputs([graph.add_node("int_conv2d", [x, weight, None, rows], name="y").result])
graph.stage = "integer"
blas._ALONE_MS = 0.0
program = compile(graph, engine="blas", threads=2)
image = np.ones((1, 16, 40, 40), np.int8)
wanted = program.run([image])["y"]
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs must not outlive the test
    os._exit(0 if (program.run([image])["y"] == wanted).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "0"
