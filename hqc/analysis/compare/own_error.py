"""What one operation adds to the error of the network: its own error, split by cause, and what each part costs at the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqc.analysis.compare.distances import NoiseSum
from hqc.analysis.compare.float_run import FloatRun
from hqc.analysis.compare.operations import Operation
from hqc.arithmetic import bounds
from hqc.checked import explained
from hqc.ir import Trait, get_op
from hqc.workflow.runner import arrays_of

Array = npt.NDArray[Any]
CAUSES = ("clipping", "activation rounding", "weight rounding")


@explained
@dataclass(frozen=True)
class OwnError:
    """An operation fed with float inputs. `sqnr`: its result against float, dB. `clipped`: share of its values beyond the grid.

    `clipping`, `activation_rounding`, `weight_rounding`: shares of the error's energy. `inherited`: dB of the error that its inputs
    bring. `cost`: SQNR of the model's outputs, dB, where this operation alone is quantized; the smaller, the worse. `cause`: the part
    that costs most at the outputs, one of `CAUSES`, or empty where there is no error.

    Where values share one scale (the operands of a cat on bernoulli), what makes one of them is charged for the error that it would
    make on a scale of its own; what the common scale costs beyond that is the error of the operation that asks for it.
    `shared_cost`: `cost` on the common scale; equal to `cost` where there is none.
    """

    sqnr: float
    clipped: float
    clipping: float
    activation_rounding: float
    weight_rounding: float
    inherited: float
    cost: float
    cause: str
    shared_cost: float


@dataclass(frozen=True)
class Parts:
    """The result of an operation on float inputs: `real`; with its weights on their grid; then clipped to the result's grid; then
    rounded to it. `beyond`: how many elements were clipped."""

    real: Tensor
    weights: Tensor
    clipped: Tensor
    final: Tensor
    beyond: int

    def causes(self) -> dict[str, Tensor]:
        """The float result with one part of the error each; parts without an error are left out."""
        steps = dict(
            zip(CAUSES, (self.clipped - self.weights, self.final - self.clipped, self.weights - self.real), strict=True)
        )
        return {name: self.real + error for name, error in steps.items() if bool(error.any())}


def parts_of(run: FloatRun, operation: Operation) -> Parts | None:
    """With the scale in force; None for an operation that makes no error: it has no fake quants."""
    if not operation.weights and operation.on_result is None:
        return None
    real = run.values[operation.value]
    if not isinstance(real, Tensor) or not real.is_floating_point():
        return None
    weights = run.again_with(operation, operation.weights) if operation.weights else real
    grid = operation.on_result
    if grid is None:
        return Parts(real, weights, weights, weights, 0)
    final = run.again_with(operation, [*operation.weights, grid])
    scale = grid.calculate_qparams()[0].detach().to(weights.device)
    low, high = bounds(grid.bits)
    clipped = torch.minimum(torch.maximum(weights, low * scale), high * scale)
    # What rounding brings to the end of the grid is not clipped; a range taken from the data reaches that far.
    above, below = (1.0, 0.0) if grid.rounding == "floor" else (0.501, 0.501)
    beyond = (weights > (high + above) * scale) | (weights < (low - below) * scale)
    return Parts(real, weights, torch.where(beyond, clipped, weights), final, int(beyond.sum()))


def shares_for_others(operation: Operation) -> bool:
    """True where the result's scale is that of a group, and another operation asks for it: a cat asks for its own."""
    grid = operation.activation
    return grid is not None and len(grid.members) > 1 and not get_op(operation.name.op).has(Trait.SAME_SCALE)


class OwnErrorSum:
    """Takes in batches of one operation."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.noise = NoiseSum()
        self.costs = OutputCosts()
        self.beyond = self.elements = 0

    def add(self, run: FloatRun, quantized: Any) -> None:
        """`quantized`: the operation's result where the whole model is quantized."""
        shared = parts_of(run, self.operation)
        if shared is None:
            return
        parts = shared
        if shares_for_others(self.operation):
            assert self.operation.activation is not None
            with self.operation.activation.alone():
                parts = parts_of(run, self.operation) or shared
            self.costs.add("shared", run.outputs, run.with_value(self.operation.value, shared.final))
        self.beyond += parts.beyond
        self.elements += parts.real.numel()
        error = parts.final - parts.real
        here = shared.final - shared.real
        total = quantized - parts.real if isinstance(quantized, Tensor) else here
        noises = {
            "own": error,
            "clipping": parts.clipped - parts.weights,
            "rounding": parts.final - parts.clipped,
            "weights": parts.weights - parts.real,
            "inherited": total - here,
        }
        self.noise.add(_array(parts.real), **{name: _array(noise) for name, noise in noises.items()})
        causes = parts.causes()
        outputs = run.outputs
        for name, value in causes.items():
            outputs = run.with_value(self.operation.value, value)
            self.costs.add(name, run.outputs, outputs)
        if len(causes) > 1:  # else the one cause is the whole error
            outputs = run.with_value(self.operation.value, parts.final)
        self.costs.add("own", run.outputs, outputs)

    @property
    def error(self) -> OwnError | None:
        """None for an operation without fake quants."""
        if not self.elements:
            return None
        clipping, rounding, weights = self.noise.shares("clipping", "rounding", "weights")
        return OwnError(
            self.noise.sqnr("own"),
            self.beyond / self.elements,
            clipping,
            rounding,
            weights,
            self.noise.sqnr("inherited"),
            self.costs.sqnr("own"),
            self.costs.worst(CAUSES),
            self.costs.sqnr("shared" if self.costs.knows("shared") else "own"),
        )


class OutputCosts:
    """SQNR of a model's outputs under changes, by name: of the mean, over outputs, of noise over signal."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, NoiseSum]] = {}

    def add(self, name: str, expected: Any, actual: Any) -> None:
        """`expected`, `actual`: structures of tensors or arrays. Of whole numbers (positions), the share that differs counts."""
        sums = self._sums.setdefault(name, {})
        for index, (a, b) in enumerate(zip(arrays_of(expected), arrays_of(actual), strict=True)):
            x, y = _array(a), _array(b)
            if x.dtype.kind != "f":
                x, y = np.ones(x.shape), (x == y).astype(np.float64)
            sums.setdefault(index, NoiseSum()).add(x, noise=x.astype(np.float64) - y)

    def knows(self, name: str) -> bool:
        """True where something was added under this name."""
        return name in self._sums

    def ratio(self, name: str) -> float:
        """Noise over signal; 0 where nothing was added under this name."""
        ratios = [each.noises["noise"] / max(each.signal, 1e-30) for each in self._sums.get(name, {}).values()]
        return float(np.mean(ratios)) if ratios else 0.0

    def sqnr(self, name: str) -> float:
        ratio = self.ratio(name)
        return float("inf") if ratio == 0.0 else -10.0 * float(np.log10(ratio))

    def worst(self, names: tuple[str, ...]) -> str:
        """The name with the most noise; empty where none has any."""
        ratios = {name: self.ratio(name) for name in names}
        worst = max(names, key=ratios.__getitem__)
        return worst if ratios[worst] > 0 else ""


def _array(tensor: Any) -> Array:
    return tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else np.asarray(tensor)
