"""The simulator starts without torch, onnxruntime and onnx; only what needs them loads them."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_simulator_loads_no_framework():
    code = (
        "import sys, hqc.backends.bpu, hqc.backends.bpu.engines as e\n"
        "e.get_engine('auto')\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
