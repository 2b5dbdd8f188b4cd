"""torch's own quantization modules that users' models contain; empty where a torch release no longer has them."""

from __future__ import annotations

from torch import nn

QUANT_STUBS: tuple[type[nn.Module], ...]
DEQUANT_STUBS: tuple[type[nn.Module], ...]
FUNCTIONALS: tuple[type[nn.Module], ...]

try:
    from torch.ao.nn.quantized import FloatFunctional, FXFloatFunctional
    from torch.ao.quantization import DeQuantStub, QuantStub
except ImportError:  # torch announces the removal of torch.ao.quantization
    QUANT_STUBS = DEQUANT_STUBS = FUNCTIONALS = ()
else:
    QUANT_STUBS, DEQUANT_STUBS, FUNCTIONALS = (QuantStub,), (DeQuantStub,), (FloatFunctional, FXFloatFunctional)
