"""Names and signatures that users' scripts rely on. A change here breaks those scripts: it needs a reason and a new version."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from hqc.march import March

NAMES = {
    "hqc": "Compiled Explanation HqcError LoadedModel March compile explain get_march load lower set_march show_versions split_shared",
    "hqc.march": "March MarchSpec all_specs get_march get_spec set_march",
    "hqc.quantization": " ".join(
        (
            "BoundaryFakeQuantize CalibFakeQuantize FakeQuantize FakeQuantizeBase LearnedScaleFakeQuantize PACTFakeQuantize",
            "CalibObserver ClipObserver ClipStdObserver FixedScaleObserver HistogramObserver KLObserver MSEObserver MinMaxObserver",
            "MixObserver MovingAverageMinMaxObserver MovingAveragePerChannelMinMaxObserver NoopObserver ObserverBase",
            "PerChannelMSEObserver PerChannelMinMaxObserver PercentileObserver",
            "DeQuantStub FakeQuantState March QATMode QuantDType get_qat_mode set_qat_mode",
            "QuantStub QuantWrapper qinfo qint16 qint32 qint8",
            "QConfig default_calib_8bit_fake_quant_qconfig default_calib_8bit_weight_16bit_act_fake_quant_qconfig",
            "default_calib_8bit_weight_32bit_out_fake_quant_qconfig default_calib_out_8bit_fake_quant_qconfig",
            "default_qat_8bit_fake_quant_qconfig default_qat_8bit_lsq_quant_qconfig default_qat_8bit_pact_quant_qconfig",
            "default_qat_8bit_weight_16bit_act_fake_quant_qconfig default_qat_8bit_weight_16bit_act_lsq_quant_qconfig",
            "default_qat_8bit_weight_16bit_act_pact_quant_qconfig default_qat_8bit_weight_32bit_out_fake_quant_qconfig",
            "default_qat_8bit_weight_32bit_out_lsq_quant_qconfig default_qat_out_8bit_fake_quant_qconfig",
            "default_qat_out_8bit_lsq_quant_qconfig default_weight_8bit_fake_quant get_default_calib_qconfig",
            "get_default_lsq_qconfig get_default_qat_out_qconfig get_default_qat_qconfig get_default_qconfig get_qconfig",
            "check_model compile_model export_hbir perf_model visualize_model",
            "calibrate convert convert_fx fuse_known_modules fuse_modules prepare_calibration prepare_qat",
            "fake_quantize_state fuse_fx load_observer_params prepare_calibration_fx prepare_qat_fx",
            "set_fake_quantize",
        )
    ),
    "hqc.nn": " ".join(
        (
            "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor HardLog Pow Reciprocal Selu Sin Sinh Sqrt Tan",
            "AnchorGenerator DetectionPostProcess DetectionPostProcessV1 MultiScaleRoIAlign PointPillarsScatter RcnnPostProcess",
            "BgrToYuv444 Correlation GridSample Interpolate LayerNorm RMSNorm",
            "DeQuantStub QuantStub QuantWrapper",
        )
    ),
    "hqc.nn.quantized": "FloatFunctional",
    "hqc.nn.qat": " ".join(
        [
            "DeQuantStub QuantStub",
            *(
                f"{layer}{add}{activation}{rank}"
                for layer, rank in (
                    ("Conv", "1d"),
                    ("Conv", "2d"),
                    ("ConvBn", "2d"),
                    ("ConvTranspose", "2d"),
                    ("ConvTransposeBn", "2d"),
                    ("Linear", ""),
                )
                for add in ("", "Add")
                for activation in ("", "ReLU", "ReLU6")
            ),
        ]
    ),
}
PREPARE = (
    "model, qconfig_dict=None, prepare_custom_config_dict=None, optimize_graph=False, hybrid=False, hybrid_dict=None, *, "
    "example_inputs=None, "
)
SIGNATURES = {
    "hqc.march.set_march": "march",
    "hqc.march.get_march": "",
    "hqc.quantization.prepare_calibration_fx": f"{PREPARE}edits=(), concrete_args=None, leaf_modules=()",
    "hqc.quantization.prepare_qat_fx": f"{PREPARE}keep_batch_norm=None, edits=(), concrete_args=None, leaf_modules=()",
    "hqc.quantization.convert_fx": "graph_module, convert_custom_config_dict=None, _remove_qconfig=True, *, inplace=False, fast_mode=False",
    "hqc.quantization.fuse_fx": "model, fuse_custom_config_dict=None",
    "hqc.quantization.calibrate": "prepared, data, *, progress=False, workers=1",
    "hqc.quantization.set_fake_quantize": "model, state",
    "hqc.quantization.load_observer_params": "source, target",
    "hqc.quantization.fake_quantize_state": "model",
    "hqc.quantization.get_default_qat_qconfig": (
        "dtype='qint8', weight_dtype='qint8', activation_fake_quant='fake_quant', weight_fake_quant='fake_quant', "
        "activation_qkwargs=None, weight_qkwargs=None, backend=''"
    ),
    "hqc.quantization.get_default_lsq_qconfig": "dtype='qint8', weight_dtype='qint8'",
    "hqc.quantization.get_default_qat_out_qconfig": (
        "dtype='qint8', weight_fake_quant='fake_quant', weight_qkwargs=None, backend='', weight_dtype=None"
    ),
    "hqc.quantization.get_default_calib_qconfig": "dtype='qint8', calib_qkwargs=None, backend=''",
    "hqc.quantization.get_default_qconfig": (
        "activation_fake_quant='fake_quant', weight_fake_quant='fake_quant', activation_observer='min_max', "
        "weight_observer='min_max', activation_qkwargs=None, weight_qkwargs=None"
    ),
    "hqc.show_versions": "",
    "hqc.nn.QuantStub": "scale=None, zero_point=None, qconfig=None",
    "hqc.nn.DeQuantStub": "qconfig=None",
    "hqc.utils.quant_profiler.check_deploy_device": "model, print_tabulate=True, out_dir=None",
    "hqc.utils.onnx_helper.export_to_onnx": (
        "model, args, f, export_params=True, verbose=False, training=<TrainingMode.EVAL: 0>, input_names=None, output_names=None, "
        "operator_export_type=<OperatorExportTypes.ONNX_FALLTHROUGH: 3>, opset_version=11, do_constant_folding=True, "
        "example_outputs=None, strip_doc_string=True, dynamic_axes=None, keep_initializers_as_inputs=None, custom_opsets=None, "
        "enable_onnx_checker=False"
    ),
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(NAMES[module].split())
    for name in found.__all__:
        assert getattr(found, name) is not None


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path: str) -> None:
    module, _, name = path.rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[path]})"


def test_marches() -> None:
    assert {march.name: march.value for march in March} == {
        "BERNOULLI": "bernoulli",
        "BERNOULLI2": "bernoulli2",
        "BAYES": "bayes",
        "BAYES_E": "bayes-e",
    }


COMPATIBLE = """
import hqc.compat
hqc.compat.install()
hqc.compat.install()
import horizon_plugin_pytorch
import horizon_plugin_pytorch.nn.qat, horizon_plugin_pytorch.nn.quantized, horizon_plugin_pytorch.utils.onnx_helper
import horizon_plugin_pytorch.utils.quant_profiler
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.nn.quantized import FloatFunctional
from horizon_plugin_pytorch.quantization import (
    FakeQuantState, convert_fx, fuse_fx, get_default_calib_qconfig, get_default_qat_out_qconfig, get_default_qat_qconfig,
    get_default_qconfig, prepare_calibration_fx, prepare_qat_fx, set_fake_quantize,
)
from horizon_plugin_pytorch.utils.onnx_helper import export_to_onnx
from horizon_plugin_pytorch.utils.quant_profiler import check_deploy_device
import hqc.march, hqc.nn.qat, hqc.nn.quantized, hqc.quantization, hqc.utils.onnx_helper, hqc.utils.quant_profiler
for name in ("march", "nn.qat", "nn.quantized", "quantization", "utils.onnx_helper", "utils.quant_profiler"):
    ours, theirs = (sys.modules[f"{root}.{name}"] for root in ("hqc", "horizon_plugin_pytorch"))
    assert ours is theirs, name
assert prepare_qat_fx is hqc.quantization.prepare_qat_fx
assert March is hqc.march.March
try:
    import horizon_plugin_pytorch.nonsense
except ModuleNotFoundError as error:
    assert "no counterpart" in str(error)
else:
    raise AssertionError("an unknown module was found")
hqc.compat.uninstall()
try:
    import horizon_plugin_pytorch
except ModuleNotFoundError:
    print("good")
"""


def test_compat_maps_the_references_modules() -> None:
    """In a process of its own: import hooks are global."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{COMPATIBLE}"], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "good", done.stderr


def test_no_submodule_hides_a_public_name() -> None:
    """A package attribute named like a submodule becomes that submodule once something imports it."""
    for package in NAMES:
        found = importlib.import_module(package)
        submodules = {info.name for info in pkgutil.iter_modules(found.__path__)}
        assert submodules.isdisjoint(found.__all__), package


@pytest.mark.parametrize("package", ["hqc", "hqc.quantization"])
def test_type_checkers_see_the_names_that_load_on_first_use(package: str) -> None:
    """A module-level `__getattr__` alone makes every public name an `Any` for mypy and editors."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: line.module for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert sorted(seen) == sorted(module.__all__)
    for name, home in seen.items():
        assert getattr(importlib.import_module(str(home)), name) is getattr(module, name), name


def test_public_calls_say_what_they_return() -> None:
    import hqc
    from hqc.utils.onnx_helper import export_to_onnx

    calls = [
        hqc.compile,
        hqc.explain,
        hqc.load,
        hqc.lower,
        hqc.Compiled.export,
        hqc.Compiled.profile,
        hqc.Compiled.report,
        export_to_onnx,
    ]
    calls += [getattr(hqc.quantization, name) for name in ("prepare_qat_fx", "prepare_calibration_fx", "convert_fx", "fuse_fx")]
    assert [
        call.__qualname__ for call in calls if inspect.signature(call).return_annotation in ("Any", inspect.Signature.empty)
    ] == []
