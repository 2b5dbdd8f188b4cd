"""Where a name of the reference means something else here, in one sentence each. Names that are not listed are the same."""

from __future__ import annotations

_PLAN = "The plan of the whole model decides what is fused and where fake quants go."
_CONVERTED = "A part of a converted model's tree, for printing and looking at; the program of the whole model is what computes."
_BY_HAND = (
    "For models put together by hand; prepare keeps the float layer and puts a fake quant behind it where the plan wants one."
)
_VENDOR = "Writes the ONNX file and its yaml, then raises one sentence with the `hb_mapper` command: compiling needs the vendor's tool."
_COLOURS = "BT.601; any dtype in, float32 out; `swing` is studio or full."
_DETECTION = "On torch, on the CPU; the arguments are checked, sorting is stable, and results are exact rather than the chip's."
_ORDER = "All data counts, in any order, unless `averaging_constant` is given; histograms always have 2048 bins."

DIFFERENT: dict[str, str] = {
    "quantization.prepare_qat_fx": "The caller's model is copied, never changed; `example_inputs` is an addition. Without it what needs "
    "shapes is planned at the first forward.",
    "quantization.prepare_calibration_fx": "The caller's model is copied, never changed; `example_inputs` is an addition.",
    "quantization.convert_fx": "`inplace` and `fast_mode` are keywords; the model that was converted is left alone unless `inplace`.",
    "quantization.quantize_fx.convert_fx": "As `quantization.convert_fx`.",
    "quantization.quantize_fx.prepare_qat_fx": "As `quantization.prepare_qat_fx`.",
    "quantization.prepare_qat": f"Eager mode on the passes of FX mode; `mapping` must be None. {_PLAN}",
    "quantization.convert": "Eager mode; `mapping` must be None.",
    "quantization.fuse_modules": f"Checks that the names exist and changes nothing. {_PLAN}",
    "quantization.fuse_known_modules": f"Returns the modules as they are. {_PLAN}",
    "quantization.fuse_fx": "Folds batch norms; additions and activations are fused by prepare itself.",
    "quantization.set_fake_quantize": "In QAT every forward moves the scales, in eval mode too: evaluate in VALIDATION.",
    "quantization.fake_quantize.set_fake_quantize": "As `quantization.set_fake_quantize`.",
    "quantization.FakeQuantize": "Symmetric, saturating at the chip's ends; `in_place`, `compat_mask` and `channel_len` have no effect.",
    "quantization.fake_quantize.FakeQuantize": "As `quantization.FakeQuantize`.",
    "quantization.get_qconfig": "`in_dtype` must be None: an operand has the dtype of the operation that makes it.",
    "quantization.qconfig.get_qconfig": "As `quantization.get_qconfig`.",
    "quantization.get_default_qat_qconfig": "`backend` has no effect: the march is the one of `set_march` at prepare.",
    "quantization.get_default_qat_out_qconfig": "`backend` has no effect.",
    "quantization.get_default_calib_qconfig": "`backend` has no effect; models quantize in VALIDATION with what they found.",
    "quantization.load_observer_params": "Works between models of any observers.",
    "quantization.check_model": "hqc's own support analysis and the audit of the file, printed; 0 when nothing is in the way.",
    "quantization.compile_model": _VENDOR,
    "quantization.perf_model": _VENDOR,
    "quantization.export_hbir": _VENDOR,
    "quantization.visualize_model": "A picture by suffix: svg, onnx (for Netron), dot or json.",
    "quantization.observer_v2.HistogramObserver": f"The clip with the smallest squared error. {_ORDER}",
    "quantization.observer_v2.MSEObserver": _ORDER,
    "quantization.observer_v2.KLObserver": _ORDER,
    "quantization.observer_v2.MixObserver": f"Per tensor the percentile with the smallest squared error. {_ORDER}",
    "quantization.observer_v2.PercentileObserver": _ORDER,
    "quantization.fx.graph_module.QuantizedGraphModule": "A module, not an FX graph module; `.graph` is the integer IR.",
    "quantization.fx.graph_module.GraphModuleWithAttr": "A mark that prepared and converted models share.",
    "qat_mode.set_qat_mode": "WithBN and WithBNReverseFold are one thing: the weight is fake-quantized folded, as it is deployed.",
    "quantization.set_qat_mode": "As `qat_mode.set_qat_mode`.",
    "qat_mode.tricks": "Setting a switch is said in the log and changes nothing.",
    "qtensor.QTensor": "Models pass plain tensors between their fake quants; a QTensor is made by hand, and arithmetic on it gives plain "
    "tensors of the real values.",
    "utils.onnx_helper.export_to_onnx": "The file is run and compared before the call returns; hb_mapper's yaml is written beside it.",
    "utils.onnx_helper.export_quantized_onnx": "Writes a file of integers that onnxruntime runs with the simulator's bits.",
    "utils._register_onnx_ops": "`torch.onnx.export` of a prepared model writes what `export_to_onnx` writes.",
    "utils.quant_profiler.script_profile": "There is no vendor parser to compare with.",
    "utils.quant_profiler.model_profiler": "Text files and one page; `hqc.analysis.compare` says what each operation costs.",
    "utils.quant_profiler.profile_featuremap": "No tensorboard; histograms are in hqc's report.",
    "utils.quant_profiler.compare_weights": "No tensorboard; quantized is what the deployed integers stand for.",
    "utils.quant_profiler.show_cuda_memory_consumption": "Needs a CUDA device.",
    "utils.serialization.save_with_version": "`torch.save`; a dict that is no state dict gets an entry `hqc_version`.",
    "jit.save": "`torch.jit.save`; a trace of a converted model holds the compiled model.",
    "jit.load": "`torch.jit.load`; a trace of a converted model runs on the CPU wherever its inputs are.",
    "fx.CustomTracer": "hqc's own tracer; prepare uses it by itself.",
    "fx.fx_helper.wrap": "Calls become one node that runs as it is, on the CPU.",
    "utils.fx_helper.wrap": "As `fx.fx_helper.wrap`.",
    "nn.GridSample": "On the BPU of bayes and bayes-e, with modelled fixed-point coordinates; other modes and marches: on the CPU. "
    "A grid that a QuantStub without an entry of its own quantizes is int16.",
    "nn.LayerNorm": "With `dim` it is composed of means and products, each planned by its own row.",
    "nn.HardLog": "The logarithm of what is at least `eps`.",
    "nn.AnchorGenerator": f"Anchors `[1, A * 4, H, W]` for each map. {_DETECTION}",
    "nn.Correlation": "After the published formula; on torch.",
    "nn.functional.filter": _DETECTION,
    "functional.sort": "Always stable.",
    "nn.qat.segment_lut.SegmentLUT": "The function itself and a fake quant; the arguments that divide the table have no effect.",
    "nn.quantized.functional": "`quantize`, `dequantize` and `requantize` of tensors, with hqc's arithmetic.",
    **dict.fromkeys(
        (
            "nn.DetectionPostProcess",
            "nn.DetectionPostProcessV1",
            "nn.RcnnPostProcess",
            "nn.MultiScaleRoIAlign",
            "nn.PointPillarsScatter",
            "nn.functional.nms",
            "functional.nms",
            "functional.nms_rotated",
            "functional.batched_nms_with_padding",
            "nn.functional.point_pillars_preprocess",
            "nn.functional.point_pillars_scatter",
        ),
        _DETECTION,
    ),
    **dict.fromkeys(
        (
            "nn.qat.avg_pool2d.AvgPool2d",
            "nn.qat.batchnorm.BatchNorm2d",
            "nn.qat.functional_modules.FloatFunctional",
            "nn.qat.interpolate.Interpolate",
            "nn.qat.relu.ReLU",
            "nn.qat.upsampling.Upsample",
            "nn.qat.upsampling.UpsamplingBilinear2d",
        ),
        _BY_HAND,
    ),
    **dict.fromkeys(
        (
            "nn.quantized.avg_pool2d.AvgPool2d",
            "nn.quantized.functional_modules.QFunctional",
            "nn.quantized.interpolate.Interpolate",
            "nn.quantized.quantize.DeQuantize",
            "nn.quantized.quantize.Quantize",
            "nn.quantized.relu.ReLU",
            "nn.quantized.segment_lut.SegmentLUT",
            "nn.quantized.upsampling.Upsample",
            "nn.quantized.upsampling.UpsamplingBilinear2d",
        ),
        _CONVERTED,
    ),
    **dict.fromkeys(
        (
            *("bgr2centered_gray", "bgr2centered_yuv", "bgr2gray", "bgr2yuv", "centered_yuv2bgr", "centered_yuv2rgb"),
            *("rgb2centered_gray", "rgb2centered_yuv", "rgb2gray", "rgb2yuv", "nn.BgrToYuv444", "nn.functional.bgr_to_yuv444"),
            *("functional.rgb2centered_yuv", "functional.bgr2centered_yuv"),
            *("functional.centered_yuv2bgr", "functional.centered_yuv2rgb"),
        ),
        _COLOURS,
    ),
}
"""Name behind `horizon_plugin_pytorch.` -> the difference."""
