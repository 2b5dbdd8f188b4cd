"""Torch forms: for each IR op a torch expression with its semantics.

The emitter writes a node in its torch form where no FX call computes exactly its value (inside composite calls, or in IR that
another front end made). A form is a torch function and keyword arguments made from the node's attributes, so that emitted code
reads like hand-written torch::

    @torch_form_of("mean")
    def mean(a: Attributes) -> TorchForm:
        return TorchForm(torch.mean, dim=a["axes"] or None, keepdim=a["keepdims"])

Ops of the quantized world (quantize, dequantize, the integer stage) have none: there the emitter writes fake quants. An opaque
node has none either: its FX call is its form.
"""

from hqc.frontend.fx.forms.registry import TorchForm, has_torch_form, torch_form

__all__ = ["TorchForm", "has_torch_form", "torch_form"]
