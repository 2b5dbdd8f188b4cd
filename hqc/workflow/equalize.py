"""Cross-layer equalization: channels of very different ranges are brought closer, and the layers that read them undo it.

One scale per tensor serves its largest channel; small channels then have few steps left. Scaling channel c by f in the layer that makes it
and by 1/f in those that read it leaves the network's function as it is (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, with ranges of activations as in Xiao et al., "SmoothQuant", ICML 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hqc.ir import Graph
from hqc.nn.qat.layer import QATLayer
from hqc.quantization.fake_quantize import fake_quants
from hqc.quantization.switches import quantizing
from hqc.workflow.channels import channel_classes
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runs import Run

ALL_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.5, 0.75)
"""Exponents of activation ranges that are tried; the rest goes by weights. Behind depthwise layers alone it is 1: they lose nothing."""
LIMIT = 64.0
"""Factors lie between 1/64 and 64."""


class Equalizer:
    """Scales the channels of a prepared model's layers in place, by the ranges that they have on `batches`."""

    def __init__(
        self, prepared: ObservedGraphModule, graph: Graph, layers: Mapping[str, QATLayer], batches: Sequence[tuple[Any, ...]]
    ) -> None:
        """`graph`: the scaled IR; `layers`: by name of their IR node, those whose parameters nothing else reads."""
        self.prepared, self.layers, self.batches = prepared, layers, batches
        self.classes = channel_classes(graph, set(layers))
        self.ranges = self._ranges() if self.classes else {}
        self.original = {
            name: (layer.weight.detach().clone(), None if layer.bias is None else layer.bias.detach().clone())
            for name, layer in layers.items()
        }

        self.fake_quants = [
            each
            for _, each in fake_quants(prepared)
            if each.ch_axis < 0 and not each.fixed and each.activation_post_process.calibrated
        ]
        self.scales = [each.activation_post_process.scale().clone() for each in self.fake_quants]
        self.seen = self._observed_scales() if self.classes else []

    @property
    def possible(self) -> bool:
        """Some channels may be scaled."""
        return bool(self.classes)

    def _ranges(self) -> dict[str, Tensor]:
        """Largest magnitude per channel of the values that layers of some class make, by node name."""
        wanted = {node.name for each in self.classes for node, _ in each.made}
        found: dict[str, Tensor] = {}
        by_name = {node.name: node for node in self.prepared.graph.nodes}
        for batch in self.batches:
            with quantizing(self.prepared, ()):
                run = Run(self.prepared, batch)
            for name in wanted:
                value = run.values[by_name[name]]
                axis = 1 if value.dim() in (2, 4) else value.dim() - 1
                largest = value.abs().transpose(0, axis).flatten(1).amax(1)
                found[name] = torch.maximum(found[name], largest) if name in found else largest
        return found

    def _observed_scales(self) -> list[Tensor]:
        """What observers like those of the activations say of `batches`, with the layers as they are now."""
        kept = [each.activation_post_process for each in self.fake_quants]
        try:
            for each in self.fake_quants:
                each.activation_post_process = copy.deepcopy(each.activation_post_process)
                each.activation_post_process.reset()
            with torch.no_grad(), quantizing(self.prepared, (), observing=self.fake_quants):
                for batch in self.batches:
                    self.prepared(*batch)
            return [each.activation_post_process.scale().clone() for each in self.fake_quants]
        finally:
            for each, observer in zip(self.fake_quants, kept, strict=True):
                each.activation_post_process = observer

    def apply(self, strength: float) -> None:
        """Scale with one strength, from the layers' original parameters.

        Activation scales, which all calibration data decided, change as they do on `batches`.
        """
        self.restore()
        up = {name: np.ones(_outputs(layer)) for name, layer in self.layers.items()}
        down = {name: np.ones(_inputs(layer)) for name, layer in self.layers.items()}
        for each, factor in zip(self.classes, self._factors(strength), strict=True):
            for node, channel in each.made:
                up[node.name][channel] = factor
            for node, channel in each.read:
                down[node.name][channel] = factor
        for name, layer in self.layers.items():
            _scale(layer, torch.from_numpy(up[name]).float(), torch.from_numpy(down[name]).float())
        now = self._observed_scales()
        for fake_quant, full, before, after in zip(self.fake_quants, self.scales, self.seen, now, strict=True):
            fake_quant.assign_scale(full * (after / before))

    def restore(self) -> None:
        """The parameters as they were."""
        with torch.no_grad():
            for name, (weight, bias) in self.original.items():
                layer = self.layers[name]
                layer.weight.copy_(weight)
                if bias is not None and layer.bias is not None:
                    layer.bias.copy_(bias)
                layer.reset_weight_scale()
        for fake_quant, full in zip(self.fake_quants, self.scales, strict=True):
            fake_quant.assign_scale(full)

    def _factors(self, strength: float) -> list[float]:
        """One factor per class: `w^(1-a) / x^a`, divided by the geometric mean of its tensor's."""
        raw = []
        for each in self.classes:
            x = max(float(self.ranges[node.name][channel]) for node, channel in each.made)
            readers = [self.layers[node.name] for node, _ in each.read]
            depthwise = all(_is_depthwise(layer) for layer in readers)
            w = max(_input_range(self.layers[node.name], channel) for node, channel in each.read)
            a = 1.0 if depthwise else strength
            raw.append(1.0 if x <= 0 or w <= 0 else w ** (1 - a) / x**a)
        # Neighbours in one tensor are compared with each other: their common factor is nobody's gain.
        tensors: dict[str, list[int]] = {}
        for index, each in enumerate(self.classes):
            tensors.setdefault(each.made[0][0].name, []).append(index)
        for members in tensors.values():
            mean = float(np.exp(np.mean([np.log(raw[index]) for index in members])))
            for index in members:
                raw[index] = float(np.clip(raw[index] / mean, 1 / LIMIT, LIMIT))
        return raw


def _outputs(layer: QATLayer) -> int:
    return layer._channels()


def _inputs(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _is_depthwise(layer: Any) -> bool:
    return not isinstance(layer, nn.Linear) and layer.groups == layer.in_channels and layer.groups > 1


def _input_range(layer: Any, channel: int) -> float:
    """Largest weight that multiplies an input channel, in units of its output channel's largest."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        return float(weight[channel].abs().max())
    groups = getattr(layer, "groups", 1)
    size = weight.shape[1]
    group, index = divmod(channel, size)
    rows = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])[group]
    largest = rows.abs().flatten(1).amax(1).clamp(min=1e-30)
    return float((rows[:, index].abs().reshape(len(rows), -1).amax(1) / largest).max())


@torch.no_grad()
def _scale(layer: Any, up: Tensor, down: Tensor) -> None:
    """Multiply output channels by `up`, divide input channels by `down`."""
    groups = getattr(layer, "groups", 1)
    weight = layer.weight
    tail = [1] * (weight.dim() - 2)
    if isinstance(layer, nn.ConvTranspose2d):
        weight /= down.view(-1, 1, *tail)
        if groups == 1:
            weight *= up.view(1, -1, *tail)
        else:
            per_group = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
            per_group *= up.view(groups, 1, -1, *tail)
    else:
        weight *= up.view(-1, 1, *tail)
        per_group = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
        per_group /= down.view(groups, 1, -1, *tail)
    if layer.bias is not None:
        layer.bias *= up
    layer.reset_weight_scale()
