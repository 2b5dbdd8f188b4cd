"""A tensor together with its quantization: values on the grid of a scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import InputError
from hqc.nn.quantized.functional import quantize
from hqc.quantization.dtypes import QuantDType, qinfo

_SAME_SCALE = {
    *("view", "reshape", "permute", "transpose", "flatten", "squeeze", "unsqueeze", "expand", "repeat", "contiguous", "clone"),
    *("detach", "flip", "__getitem__", "narrow", "chunk", "split", "to", "cpu", "cuda", "relu", "max_pool2d", "roll", "select"),
    *("index_select", "gather", "pixel_shuffle", "pixel_unshuffle", "t", "unbind", "requires_grad_", "repeat_interleave"),
}
"""Functions whose results stay on the grid of their operand."""
_JOINING = {"cat", "stack"}
"""Functions whose results stay on a grid that all their operands share."""


@numeric
class QTensor(Tensor):
    """Real values on the grid of `scale`. Made from real values, which are rounded to it, or from integers.

    Functions that only move values, and relu and max pool, keep the quantization; every other one (arithmetic) works on the real
    values and gives a plain tensor, as the models of hqc do between their fake quants. `scale`: `[1]`, or `[C]` along `per_channel_axis`.
    `dtype`: "qint8", "qint16", "qint32". Zero points are 0.
    """

    _scale: Tensor
    _quantized_dtype: QuantDType
    _axis: int

    @staticmethod
    def __new__(
        cls, data: Any, scale: Any, zero_point: Any = None, dtype: Any = "qint8", per_channel_axis: int = -1
    ) -> QTensor:
        values = data.as_subclass(Tensor) if isinstance(data, QTensor) else torch.as_tensor(data)
        scale = torch.as_tensor(scale, dtype=torch.float32, device=values.device).reshape(-1)
        info = qinfo(dtype)
        if zero_point is not None and bool(torch.as_tensor(zero_point).any()):
            raise InputError("QTensor: the BPU quantizes symmetrically, the zero point must be 0")
        along = (
            scale.view([-1 if axis == per_channel_axis % values.dim() else 1 for axis in range(values.dim())])
            if (per_channel_axis >= 0)
            else scale
        )
        if values.is_floating_point():
            result = (values / along).round().clamp(info.min, info.max) * along
        else:
            result = values.to(torch.float32) * along
        made: QTensor = result.as_subclass(cls)
        made._scale, made._quantized_dtype, made._axis = scale, info.dtype, per_channel_axis
        return made

    def _like(self, result: Any) -> Any:
        """A plain result that lies on this tensor's grid, with its quantization."""
        if isinstance(result, (tuple, list)):
            return type(result)(self._like(each) for each in result)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        made = result.as_subclass(QTensor)
        made._scale, made._quantized_dtype, made._axis = self._scale.to(result.device), self._quantized_dtype, self._axis
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        operands = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, QTensor)]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*_plain(args), **_plain(kwargs)) if name not in ("__get__", "__set__") else func(*args, **kwargs)
        if not operands or operands[0]._axis >= 0 or name == "__get__":
            keeps = bool(operands) and name in ("clone", "detach", "to", "cpu", "cuda", "contiguous")
        elif name in _JOINING:
            tensors = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            keeps = len(operands) == len(tensors) and all(torch.equal(each._scale, operands[0]._scale) for each in operands)
        else:
            keeps = name in _SAME_SCALE and isinstance(_first(args, kwargs), QTensor)
        return operands[0]._like(result) if keeps else _plain(result)

    def q_scale(self) -> Tensor:  # type: ignore[override]
        """The scale, float32 `[1]` or `[C]`."""
        return self._scale

    def q_zero_point(self) -> Tensor:  # type: ignore[override]
        """Zeros of the shape of the scale."""
        return torch.zeros_like(self._scale, dtype=torch.int64)

    def q_per_channel_axis(self) -> int:
        """The axis along which the scale has entries; -1 for one scale."""
        return self._axis

    @property
    def quantized_dtype(self) -> QuantDType:
        """The dtype of the integers."""
        return self._quantized_dtype

    def int_repr(self) -> Tensor:
        """The integers: int8, int16 or int32."""
        return quantize(self.dequantize(), self._scale, ch_axis=self._axis, dtype=self._quantized_dtype)

    def dequantize(self) -> Tensor:
        """The real values as a plain tensor."""
        return self.as_subclass(Tensor)

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return (
            f"QTensor({self.dequantize()}, scale={self._scale.tolist()}, zero_point=0, dtype={self._quantized_dtype}, "
            f"per_channel_axis={self._axis})"
        )

    def __deepcopy__(self, memo: Any) -> QTensor:
        return QTensor(self.dequantize().clone(), self._scale.clone(), None, self._quantized_dtype, self._axis)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return QTensor, (self.dequantize(), self._scale, None, str(self._quantized_dtype), self._axis)


def _plain(structure: Any) -> Any:
    return torch.utils._pytree.tree_map_only(QTensor, lambda each: each.as_subclass(Tensor), structure)


def _first(args: Any, kwargs: Any) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
