"""Fake quants under torch's TorchScript exporter: they observe nothing, and are written as the plain operations they are made of."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger("hqc")
_warned = False


def exporting() -> bool:
    """An export by torch is in progress."""
    return torch._C._get_tracing_state() is not None and torch.onnx.is_in_onnx_export()


def warn_of_plain_operations() -> None:
    """Say, once, that the file has no quantization that hb_mapper knows."""
    global _warned
    if not _warned:
        logger.warning(
            "torch.onnx.export writes fake quants as plain operations, which hb_mapper does not take for quantization; "
            "import hqc.utils._register_onnx_ops before and give it the prepared model itself, or use "
            "hqc.utils.onnx_helper.export_to_onnx"
        )
    _warned = True
