"""A march added to a copy of the tree is one new file and one line of the enum; then every room knows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SPEC = '''"""`bayes-next`: a chip of the future, which runs what bayes runs."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.rules import build_rules
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bayes-next",
    title="Bayes next",
    chips=("J7",),
    activation_dtypes=(DType.INT8, DType.INT16),
    rules=build_rules("bayes-next", assumed_from="bayes"),
)
'''

CHECK = """
import torch
from click.testing import CliRunner
from torch import nn
import hqc
from hqc.cli import main
from hqc.march import March, all_specs, set_march

assert [spec.name for spec in all_specs()][-1] == "bayes-next"
set_march("bayes_next")
torch.manual_seed(0)
x, model = torch.rand(1, 3, 8, 8), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
compiled = hqc.compile(model, x, march=March.BAYES_NEXT, calibration_data=[x])
assert {node.device.value for node in compiled.graph.nodes if node.op.name == "conv2d"} == {"bpu"}
compiled.export("model.onnx")
shown = CliRunner().invoke(main, ["ops", "--march", "bayes-next", "conv2d"])
assert shown.exit_code == 0 and "conv2d" in shown.output, shown.output
refused = CliRunner().invoke(main, ["ops", "--march", "bays"])
assert refused.exit_code != 0 and "bayes-next" in refused.output, refused.output
"""


def test_a_march_is_one_file_and_one_line(tmp_path: Path) -> None:
    for room in ("hqc", "passes", "backends"):
        shutil.copytree(ROOT / room, tmp_path / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "hqc/march/bayes_next.py").write_text(SPEC, encoding="utf-8")
    enum = tmp_path / "hqc/march/state.py"
    text, line = enum.read_text(encoding="utf-8"), '    BAYES_E = "bayes-e"\n'
    assert text.count(line) == 1
    enum.write_text(text.replace(line, f'{line}    BAYES_NEXT = "bayes-next"\n'), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
