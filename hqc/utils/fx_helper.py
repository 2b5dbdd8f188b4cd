"""`wrap`, under the reference's other path."""

from hqc.fx.fx_helper import replace_torch_op, wrap

__all__ = ["replace_torch_op", "wrap"]
