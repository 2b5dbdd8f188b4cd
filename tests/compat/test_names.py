"""Every name that public scripts and manuals use exists, and the page of names is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hqc.compat
from hqc.compat.api import entries, names, page, resolve
from hqc.compat.differences import DIFFERENT
from hqc.errors import AbsentNameError

PAGE = Path(__file__).parents[2] / "docs" / "plugin_api.md"
NEXT_GENERATION = (
    "NASH",
    "hbdk4",
    "qconfig_setter",
    "qconfig_template",
    "PrepareMethod",
    "jit_scheme",
    "Setter",
    "horizon_plugin_profiler",
)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m hqc.compat.api docs/plugin_api.md"


def test_only_other_generations_and_single_tools_are_refused() -> None:
    instead = [row.name for row in entries() if row.status == "instead"]
    others = [name for name in instead if not any(word in name for word in NEXT_GENERATION)]
    assert others == [
        "horizon_plugin_pytorch.quantization.prepare",
        "horizon_plugin_pytorch.utils.quant_profiler.set_preserve_qat_mode",
        "horizon_plugin_pytorch.qat_mode.ConsistencyStrategy",
        "horizon_plugin_pytorch.quantization.prepare.prepare",
    ]


def test_every_difference_belongs_to_a_name_of_the_list() -> None:
    known = {name.removeprefix("horizon_plugin_pytorch.") for name, _ in names()}
    assert not set(DIFFERENT) - known


@pytest.mark.parametrize("name", [row.name for row in entries() if row.status == "instead"])
def test_a_refused_name_says_what_to_use(name: str) -> None:
    with pytest.raises(AbsentNameError, match=r"hqc|use |there are March"):
        resolve(name)(None)


def test_package_attributes_need_no_import_of_their_own() -> None:
    """In a process of its own: here everything is imported already."""
    script = (
        "import sys, hqc.compat; hqc.compat.install()\n"
        "import horizon_plugin_pytorch as horizon\n"
        "assert 'torch' not in sys.modules\n"
        "horizon.march.set_march(horizon.march.March.BAYES)\n"
        "horizon.quantization.prepare_qat_fx, horizon.nn.qat.Conv2d, horizon.utils.onnx_helper.export_to_onnx\n"
        "horizon.rgb2centered_yuv, horizon.qat_mode.set_qat_mode, horizon.dtype.qint16, horizon.qtensor.QTensor\n"
        "from horizon_plugin_pytorch.quantization import convert, prepare, prepare_qat, observer_v2\n"
        "import horizon_plugin_pytorch.quantization.prepare\n"
        "assert callable(convert) and callable(prepare) and not hasattr(horizon, 'nothing')\n"
        "from hqc.errors import MarchError\n"
        "try: horizon.quantization.prepare(None)\n"
        "except MarchError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "next chip generation" in done.stdout, done.stderr


def test_names_of_modules() -> None:
    modules = hqc.compat.reference_modules()
    assert "horizon_plugin_pytorch.quantization" in modules and "horizon_plugin_pytorch.nn.qat.conv2d" in modules
