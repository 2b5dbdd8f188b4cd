"""What goes to other processes: pickled once, and no larger than it is."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle

from hqc.errors import InputError


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """A part of a tensor travels alone; torch would send all that it is a part of, with every batch cut out of one data set."""

    def reducer_override(self, item: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and type(item) is torch.Tensor and _is_part(item):
            item = item.detach().clone().requires_grad_(item.requires_grad)
            return item.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return super().reducer_override(item)


def packed(item: Any, what: str) -> bytes:
    """`item` pickled; `InputError` names `what` it is where it cannot be."""
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(item)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise InputError(f"{what} cannot travel to other processes: {' '.join(str(error).split())[:200]}") from error
    return buffer.getvalue()


def _is_part(tensor: Any) -> bool:
    """Whether a plain leaf is a part of something larger."""
    dense = str(tensor.layout) == "torch.strided" and tensor.is_leaf and tensor.device.type != "meta"
    return dense and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
