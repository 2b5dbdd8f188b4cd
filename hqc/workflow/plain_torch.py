"""Torch as hqc's own code takes it, whatever the user's program has switched on around the call. Importing this needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Decorator of an entry point. Outside inference mode: a prepared model goes on to be calibrated and trained, which tensors that are
    made in it cannot be. And not on the meta device, where scales and statistics would have no values.
    """
    import torch

    meta = torch.get_default_device().type == "meta"
    with torch.inference_mode(False), torch.device("cpu") if meta else contextlib.nullcontext():
        yield
