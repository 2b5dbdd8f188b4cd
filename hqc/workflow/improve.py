"""Better quantization after training: layers are tuned one after another on calibration data, and what does not gain is dropped.

Channels are equalized where the layers that read them can undo it. Then layers are tuned in program order. Each sees what the
quantized model before it really feeds it, so it makes up for their errors too. Weights are chosen on their grid by
`reconstruct`; biases alone move by the mean error. A layer keeps the variant with the smallest error on samples that were not used
to find it, and the whole model what helps its outputs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hqc.nn.qat.layer import QATLayer, ResidualCalls
from hqc.quantization.switches import quantizing
from hqc.workflow.deploy import deploy
from hqc.workflow.equalize import ALL_STRENGTHS, STRENGTHS, Equalizer
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.reconstruct import reconstruct, rows_of
from hqc.workflow.runs import Run

logger = logging.getLogger("hqc")
ROWS = 16384
"""Rows of a layer's operand that weights are fitted to, at most."""
Tuned = tuple[Tensor | None, Tensor | None, Tensor]
"""Weight and bias of a layer (None: its own) and the scale of its weight."""
LARGEST = 4608
"""Products per result (`C k k`) beyond which only the bias is tuned: the Hessian would take minutes."""


@dataclass(frozen=True)
class LayerGain:
    """One layer: what was tuned (`weights`, `bias` or `nothing`), and its error against float on held-out samples, dB, before and after."""

    name: str
    tuned: str
    before: float
    after: float


@dataclass(frozen=True)
class Improvement:
    """What a step of tuning gained at the model's outputs, in dB on the batches; `kept`: the variant that stayed."""

    kept: str
    gains: dict[str, float]
    layers: tuple[LayerGain, ...]

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {gain:+.1f} dB" for name, gain in self.gains.items())
        return f"measured on calibration data: {tried or 'nothing to do'}; kept: {self.kept}"


@dataclass(frozen=True)
class Call:
    """A layer's call in the emitted graph: its node, the layer, and the nodes of its operand and residual."""

    node: fx.Node
    layer: QATLayer
    x: fx.Node
    residual: fx.Node | None


def calls_of(prepared: ObservedGraphModule) -> Iterator[Call]:
    """The layers that can be tuned, in program order: called once, with parameters that nothing else reads."""
    counts: dict[int, int] = {}
    found = []
    for node in prepared.graph.nodes:
        call = _call(prepared, node)
        if call is not None:
            counts[id(call.layer.weight)] = counts.get(id(call.layer.weight), 0) + 1
            found.append(call)
    for call in found:
        plain = (
            type(call.layer)._linear_part is QATLayer._linear_part
            and type(call.layer)._folded_weight is QATLayer._folded_weight
        )
        if plain and counts[id(call.layer.weight)] == 1 and not call.node.kwargs:
            yield call


def _call(prepared: ObservedGraphModule, node: fx.Node) -> Call | None:
    args = [arg for arg in node.args if isinstance(arg, fx.Node)]
    if node.op == "call_module":
        layer = prepared.get_submodule(str(node.target))
        if isinstance(layer, QATLayer):
            return Call(node, layer, args[0], args[1] if layer.residual else None)
    if node.op == "call_method" and node.target in ("add", "add_relu") and args and args[0].op == "get_attr":
        layer = prepared.get_submodule(str(args[0].target))
        if isinstance(layer, QATLayer) and isinstance(layer, ResidualCalls):
            operands = args[1:]
            return Call(node, layer, operands[layer.conv_position], operands[1 - layer.conv_position])
    return None


class _Walk:
    """A prepared model computed node by node on several batches at once; values go when nothing reads them any more."""

    def __init__(self, prepared: ObservedGraphModule, batches: Sequence[tuple[Any, ...]], *, quantized: bool) -> None:
        self.quantized, self.prepared = quantized, prepared
        self.runs = [Run.stepwise(prepared, batch) for batch in batches]
        self.last: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(prepared.graph.nodes):
            for operand in node.all_input_nodes:
                if operand not in seen:
                    seen.add(operand)
                    self.last.setdefault(node, []).append(operand)

    def step(self, node: fx.Node) -> None:
        with torch.no_grad(), quantizing(self.prepared, None if self.quantized else ()):
            for run in self.runs:
                run.step(node)

    def of(self, node: fx.Node) -> list[Tensor]:
        return [run.env[node] for run in self.runs]

    def forget(self, node: fx.Node) -> None:
        for operand in self.last.get(node, ()):
            for run in self.runs:
                run.env.pop(operand, None)


class Tuner:
    """Tunes a prepared, calibrated model in place on `batches`; the last quarter of them is held out."""

    def __init__(
        self, prepared: ObservedGraphModule, batches: Sequence[tuple[Any, ...]], strengths: Sequence[float] = STRENGTHS
    ) -> None:
        self.strengths = strengths
        self.prepared, self.batches = prepared, list(batches)
        held = max(len(self.batches) // 4, 1) if len(self.batches) > 1 else 0
        self.fitted = len(self.batches) - held
        self.power_of_two = prepared.preparation.options.spec.power_of_two
        self.calls = {call.node: call for call in calls_of(prepared)}

    def run(self, variants: Sequence[str] = ("weights", "bias")) -> Improvement:
        """Try each variant on the whole model and keep the best, or none."""
        start = self._state()
        before = self._output_error(self.batches)
        best, kept = before, "nothing"
        gains: dict[str, float] = {}
        layers: tuple[LayerGain, ...] = ()
        best_state = start
        for variant in variants:
            self._restore(start)
            found = self._tune(variant)
            error = self._output_error(self.batches)
            gains[variant] = _decibels(error, before)
            if error < best:
                best, kept, layers, best_state = error, variant, tuple(found), self._state()
        self._restore(best_state)
        return Improvement(kept, gains, layers)

    def equalize(self) -> Improvement:
        """Bring the ranges of channels closer together, with the strength that helps the outputs most, or not at all."""
        graph = deploy(self.prepared, integer=False).scaled
        by_name = {name: node.name for node in graph.nodes for name in node.origin}
        layers = {by_name[call.node.name]: call.layer for call in self.calls.values() if call.node.name in by_name}
        equalizer = Equalizer(self.prepared, graph, layers, self.batches)
        best = before = self._output_error(self.batches)
        gains, kept = {}, 0.0
        for strength in self.strengths if equalizer.possible else ():
            equalizer.apply(strength)
            error = self._output_error(self.batches)
            gains[f"equalization {strength:g}"] = _decibels(error, before)
            if error < best:
                best, kept = error, strength
        if kept:
            equalizer.apply(kept)
        elif equalizer.possible:
            equalizer.restore()
        return Improvement(f"equalization {kept:g}" if kept else "nothing", gains, ())

    # --- one pass over the model -------------------------------------------------------------------------------------

    def _tune(self, variant: str) -> list[LayerGain]:
        real = _Walk(self.prepared, self.batches, quantized=False)
        quantized = _Walk(self.prepared, self.batches, quantized=True)
        gains: list[LayerGain] = []
        for node in self.prepared.graph.nodes:
            real.step(node)
            if node in self.calls:
                gains.append(self._tune_layer(self.calls[node], variant, real, quantized))
            quantized.step(node)
            real.forget(node)
            quantized.forget(node)
        return gains

    @torch.no_grad()
    def _tune_layer(self, call: Call, variant: str, real: _Walk, quantized: _Walk) -> LayerGain:
        layer = call.layer
        x, fed = real.of(call.x), quantized.of(call.x)
        added: list[Any] = [None] * len(x) if call.residual is None else real.of(call.residual)
        residual: list[Any] = [None] * len(x) if call.residual is None else quantized.of(call.residual)
        # What the linear part should give, so that with the residual there is the sum is the float one.
        targets = []
        for a, b, c in zip(x, added, residual, strict=True):
            y = layer._compute(a, layer.weight, layer.bias)
            targets.append(y if b is None else y + b - c)
        results = real.of(call.node)
        wanted = results[self.fitted :] or results
        judged = (fed[self.fitted :] or fed, residual[self.fitted :] or residual, wanted)
        own_scale = layer.weight_fake_quant.calculate_qparams()[0].clone()
        before = self._error(layer, *judged)
        best, tuned = before, "nothing"
        state: Tuned = (None, None, own_scale)
        for name, candidate in self._candidates(layer, variant, fed[: self.fitted], targets[: self.fitted], own_scale):
            _apply(layer, candidate)
            error = self._error(layer, *judged)
            if error < best:
                best, tuned, state = error, name, candidate
        _apply(layer, state)
        signal = sum(float((each.double() ** 2).sum()) for each in wanted)
        return LayerGain(str(call.node.name), tuned, _decibels(before, signal), _decibels(best, signal))

    def _candidates(
        self, layer: QATLayer, variant: str, fed: Sequence[Tensor], targets: Sequence[Tensor], own_scale: Tensor
    ) -> Iterator[tuple[str, Tuned]]:
        """Weights, bias and weight scales to try."""
        with quantizing(self.prepared, [layer.weight_fake_quant]):
            errors = [y - layer._linear_part(x) for x, y in zip(fed, targets, strict=True)]
        axes = [axis for axis in range(errors[0].dim()) if axis != _channel_axis(layer, errors[0])]
        count = sum(error.numel() for error in errors) / max(errors[0].shape[_channel_axis(layer, errors[0])], 1)
        mean = torch.stack([error.double().sum(axes) for error in errors]).sum(0) / count
        bias = mean.float() if layer.bias is None else layer.bias.detach() + mean.float()
        yield "bias", (None, bias, own_scale)
        size = layer.weight[0].numel()
        if variant != "weights" or size > LARGEST:
            return
        generator = torch.Generator().manual_seed(0)
        share = max(ROWS // len(fed), 64)
        parts = [rows_of(layer, a, b, share, generator) for a, b in zip(fed, targets, strict=True)]
        if parts[0] is None:
            return
        rows = type(parts[0])(
            torch.cat([part.x for part in parts if part is not None], 1),
            torch.cat([part.target for part in parts if part is not None], 1),
        )
        found = reconstruct(layer, layer.weight, rows, power_of_two=self.power_of_two)
        yield "weights", (found.weight, found.bias, found.scale)

    def _error(self, layer: QATLayer, fed: Sequence[Tensor], residual: Sequence[Any], wanted: Sequence[Tensor]) -> float:
        """Squared error of the quantized layer's results."""
        with quantizing(self.prepared):
            results = [
                layer._finish(layer._linear_part(x) if c is None else layer._linear_part(x) + c)
                for x, c in zip(fed, residual, strict=True)
            ]
        return sum(float(((a - b).double() ** 2).sum()) for a, b in zip(results, wanted, strict=True))

    # --- the whole model ---------------------------------------------------------------------------------------------

    def _output_error(self, batches: Sequence[tuple[Any, ...]]) -> float:
        """Mean, over outputs, of noise over signal."""
        noise: dict[int, float] = {}
        signal: dict[int, float] = {}
        for batch in batches:
            with torch.no_grad():
                with quantizing(self.prepared, ()):
                    real = pytree.tree_leaves(self.prepared(*batch))
                with quantizing(self.prepared):
                    found = pytree.tree_leaves(self.prepared(*batch))
            for index, (a, b) in enumerate(zip(real, found, strict=True)):
                if isinstance(a, Tensor) and a.is_floating_point():
                    noise[index] = noise.get(index, 0.0) + float(((a - b).double() ** 2).sum())
                    signal[index] = signal.get(index, 0.0) + float((a.double() ** 2).sum())
        ratios = [noise[index] / max(signal[index], 1e-30) for index in noise]
        return sum(ratios) / max(len(ratios), 1)

    def _state(self) -> list[Tuned]:
        return [
            (call.layer.tuned_weight, call.layer.tuned_bias, call.layer.weight_fake_quant.calculate_qparams()[0].clone())
            for call in self.calls.values()
        ]

    def _restore(self, state: Sequence[Tuned]) -> None:
        for call, each in zip(self.calls.values(), state, strict=True):
            _apply(call.layer, each)


def improve(
    prepared: ObservedGraphModule, batches: Sequence[tuple[Any, ...]], steps: Sequence[str], *, thorough: bool = False
) -> list[Improvement]:
    """Tune a prepared, calibrated model in place by the named steps (`equalize`, `weights`, `bias`), and say what each gained.

    `thorough`: more strengths of equalization, and a second round in which layers see what the first made of those before them.
    `batches`: arguments of forward. Deterministic, and nothing depends on the order that users' data came in, if `batches` does not.
    """
    tuner = Tuner(prepared, batches, ALL_STRENGTHS if thorough else STRENGTHS)
    found = [tuner.equalize()] if "equalize" in steps else []
    variants = [step for step in ("weights", "bias") if step in steps]
    for _ in range((2 if thorough else 1) if variants else 0):
        found.append(tuner.run(variants))
    for each in found:
        logger.info("%s", each)
    return found


def _apply(layer: QATLayer, state: Tuned) -> None:
    weight, bias, scale = state
    layer.tune(weight, bias)
    layer.weight_fake_quant.assign_scale(scale)


def _channel_axis(layer: nn.Module, result: Tensor) -> int:
    return result.dim() - 1 if isinstance(layer, nn.Linear) else result.dim() - (2 if isinstance(layer, nn.Conv1d) else 3)


def _decibels(noise: float, signal: float = 1.0) -> float:
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)
