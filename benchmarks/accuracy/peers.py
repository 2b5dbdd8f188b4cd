"""onnxruntime's static quantizer: QDQ, symmetric int8 for activations and weights, weights per channel, min-max on the same data."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch.numpy()}


def onnxruntime_outputs(model: nn.Module, calibration: Sequence[Tensor], test: Tensor) -> np.ndarray:
    """Outputs on `test` of the model that onnxruntime quantized on `calibration`."""
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "quantized"))
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(
            model, (calibration[0],), str(plain), opset_version=17, dynamo=False,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(quantized), _Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(quantized.read_bytes(), options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"x": batch.numpy()})[0] for batch in test.split(64)])
