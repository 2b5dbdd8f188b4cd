"""`compare_weights`: the weights of a float model beside those of its quantized form."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hqc.checked import checked
from hqc.errors import InputError
from hqc.nn.qat.layer import QATLayer
from hqc.utils.quant_profiler.similarity import similarity_function
from hqc.utils.quant_profiler.tables import show, table
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.prepared import ObservedGraphModule

HEADER = ("Weight Name", "Similarity", "Atol", "Float Range", "Quantized Range")


@checked
def compare_weights(
    float_model: nn.Module,
    qat_quantized_model: nn.Module,
    similarity_func: str | Callable[[Any, Any], Any] = "Cosine",
    with_tensorboard: bool = False,
    tensorboard_dir: str | None = None,
    out_dir: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, dict[str, torch.Tensor]], list[list[Any]]]:
    """`({name: {"float": ..., "quantized": ...}}, rows)` of every quantized weight whose float layer has the same name and shape.

    Quantized is what the deployed integers stand for; a batch norm that was folded is part of it. Printed, and written to
    `weight_comparison.txt`. `with_tensorboard`, `tensorboard_dir`: accepted and without effect.
    """
    del with_tensorboard, tensorboard_dir
    measure = similarity_function(similarity_func)
    model = qat_quantized_model.prepared if isinstance(qat_quantized_model, QuantizedGraphModule) else qat_quantized_model
    if not isinstance(model, ObservedGraphModule):
        raise InputError(f"compare_weights takes a prepared or converted model as its second, got {type(model).__name__}")
    floats = dict(float_model.named_parameters())
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    rows: list[list[Any]] = []
    for path, layer in model.named_modules():
        name = f"{path}.weight"
        if not isinstance(layer, QATLayer) or name not in floats:
            continue
        with torch.no_grad():
            quantized = _on_grid(layer)
        real = floats[name].detach()
        if real.shape != quantized.shape:
            continue
        pairs[name] = {"float": real, "quantized": quantized}
        ranges = [f"{float(each.min()):.4g} .. {float(each.max()):.4g}" for each in (real, quantized)]
        rows.append(
            [name, measure(real.cpu().numpy(), quantized.cpu().numpy()), float((real - quantized).abs().max()), *ranges]
        )
    show(table(HEADER, rows), out_dir, "weight_comparison.txt")
    return pairs, rows


def _on_grid(layer: QATLayer) -> torch.Tensor:
    """The weight that the deployed integers stand for."""
    weight, _ = layer.deployed_parameters()
    quant = layer.weight_fake_quant.weight_quant(weight)
    scale = torch.as_tensor(quant.scale.copy(), device=weight.device)
    axis = quant.axis
    along = scale if axis is None else scale.view([-1 if i == axis else 1 for i in range(weight.dim())])
    return (weight / along).round().clamp(-128, 127) * along
