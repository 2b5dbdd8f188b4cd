"""What stands before a standardization of grid values: a division of vectors by their own length or deviation (F.normalize, layer norm).

Its slope at a vector without length or deviation is one over its eps: 1e12 for F.normalize, which one step of training does not survive.
Real numbers hardly ever meet that point. A grid does at every vector that is smaller than half a step, and the eps then decides nothing but
the gradient. All that the grid tells of such a vector is that its elements are within half a step of the point, so the slope taken there is
that of an eps of half a step. A larger eps is what the user asked for and stays, as do all other vectors, and everything that is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hqc.ir import OpDef
from hqc.nn.stubs import DeQuantStub
from hqc.quantization.exporting import exporting
from hqc.quantization.fake_quantize import FakeQuantizeBase


class _Steep:
    """The bound itself. `_source`: the fake quants whose grids the values come from, which have their place in the module tree already."""

    _source: list[FakeQuantizeBase]
    _op: OpDef
    _attributes: dict[str, Any]

    def _bounded(self, x: Tensor) -> Tensor:
        quantizes = any(source.quantizes for source in self._source)
        if exporting() or not (quantizes and x.requires_grad and torch.is_grad_enabled()):
            return x
        result = x.view_as(x)  # other readers of the value keep their own gradients
        share = self._share(x.detach())
        result.register_hook(lambda gradient: gradient * share.to(gradient.dtype))  # type: ignore[no-untyped-call]
        return result

    def _share(self, x: Tensor) -> Tensor:
        """How much of the gradient stays, for every element of `x`."""
        assert self._op.vectors is not None
        vectors = self._op.vectors(tuple(x.shape), self._attributes)
        steps = [source.calculate_qparams()[0].detach().max() for source in self._source if source.calibrated]
        half_step = torch.stack([step.to(x.device) for step in steps]).max() / 2
        rows = x.reshape(vectors.shape)
        without = rows.amin(vectors.axes, keepdim=True) == rows.amax(vectors.axes, keepdim=True)
        if not vectors.centred:
            without &= rows.amax(vectors.axes, keepdim=True) == 0
        share = torch.where(without, (vectors.least / half_step).clamp(max=1.0), 1.0)
        return share.expand(rows.shape).reshape(x.shape)


class SteepDeQuantStub(_Steep, DeQuantStub):
    """A DeQuantStub that bounds the gradient of the standardization behind it.

    `source`: the fake quant whose grid the values are on. `op`, `attributes`: the standardization, which has `vectors`. forward: the
    values themselves.
    """

    def __init__(self, source: FakeQuantizeBase, op: OpDef, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self._source = [source]  # in a list: this module does not own it
        self._op, self._attributes = op, dict(attributes)

    def _get_name(self) -> str:
        return DeQuantStub.__name__

    def _passed_on(self, x: Tensor) -> Tensor:
        return self._bounded(x)


class SteepOperand(_Steep, nn.Module):
    """The same for a standardization of what the CPU has made of values on grids: moved, scaled, added, taken their mean off.

    `sources`: the fake quants of those values; the coarsest grid decides. forward: any tensor -> itself.
    """

    _hqc_leaf = True

    def __init__(self, sources: Iterable[FakeQuantizeBase], op: OpDef, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self._source = list(sources)
        self._op, self._attributes = op, dict(attributes)

    def forward(self, x: Tensor) -> Tensor:
        return self._bounded(x)
