"""The torch form of sampling."""

from __future__ import annotations

from torch.nn import functional as F

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, torch_form_of


@torch_form_of("grid_sample")
def _grid_sample(a: Attributes) -> TorchForm:
    return TorchForm(F.grid_sample, **a)
