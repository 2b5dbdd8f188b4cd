"""Scripts in the styles of the public manuals run through `hqc.compat` as they are: their own assertions say what must hold."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import hqc.compat

SCRIPTS = Path(__file__).parents[1] / "scripts"
ROOT = SCRIPTS.parents[1]
IN_PROCESS = [
    "fx_quick_start",
    "hybrid",
    "eager_modes",
    "multi_task",
    "detection",
    "bev_sampling",
    "analysis_tools",
    "calibration_tuning",
    "resume",
    "onnx_export",
    "qtensor_arithmetic",
]


@pytest.mark.parametrize("name", IN_PROCESS)
def test_script(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export)  # what _register_onnx_ops replaces
    sys.modules.pop("hqc.utils._register_onnx_ops", None)
    hqc.compat.install()
    try:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    finally:
        hqc.compat.uninstall()


def test_every_script_is_run() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*IN_PROCESS, "ddp"}


def compat(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "hqc.compat", *arguments], capture_output=True, text=True, timeout=300, cwd=cwd, env=environment
    )


@pytest.mark.xdist_group("ddp")
def test_spawned_processes_keep_the_alias(tmp_path: Path) -> None:
    done = compat(str(SCRIPTS / "ddp.py"), "spawn", cwd=tmp_path)
    assert done.returncode == 0 and "trained by 2" in done.stdout, done.stderr


@pytest.mark.xdist_group("ddp")
def test_torchrun_keeps_the_alias(tmp_path: Path) -> None:
    launch = ("-m", "torch.distributed.run", "--nproc-per-node=1", "--standalone", str(SCRIPTS / "ddp.py"))
    done = compat(*launch, cwd=tmp_path)
    assert done.returncode == 0 and "trained by 1" in done.stdout, done.stderr


FAILING = {
    "from horizon_plugin_pytorch.quantization import prepare_qat_fxx": r"no prepare_qat_fxx in hqc.quantization .*prepare_qat_fx",
    "from horizon_plugin_pytorch.march import QuantStub": "no QuantStub in hqc.march",
    "import horizon_plugin_pytorch.quantisation": "no counterpart of horizon_plugin_pytorch.quantisation.*did you mean",
    "from horizon_plugin_pytorch.quantization import prepare, March\nprepare(None, None)": "next chip generation.*prepare_qat_fx",
    "from horizon_plugin_pytorch.march import March\nMarch.NASH_E": "March.NASH_E is a march of the next chip generation",
    "import horizon_plugin_pytorch as h\nh.quantization.prepare_qat_fx(3)": "prog.py:2",
}


def test_a_name_that_is_missing_is_one_line(tmp_path: Path) -> None:
    """One process for all of them: what `main` does with a script's exception."""
    (tmp_path / "driver.py").write_text(DRIVER)
    for index, text in enumerate(FAILING):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "prog.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "driver.py", str(len(FAILING))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    lines = done.stderr.splitlines()
    assert len(lines) == len(FAILING) and all(line.startswith("error: ") for line in lines), done.stderr
    import re

    for (text, pattern), line in zip(FAILING.items(), lines, strict=True):
        assert re.search(pattern, line), (text, line)
        assert re.search(r"\(prog\.py:\d\)$", line), line


DRIVER = """
import sys
from hqc.compat.__main__ import main
for index in range(int(sys.argv[1])):
    sys.argv = ["compat", f"{index}/prog.py"]
    assert main() == 1
"""


def test_usage(tmp_path: Path) -> None:
    done = compat("nothing.py", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("usage: python -m hqc.compat")
