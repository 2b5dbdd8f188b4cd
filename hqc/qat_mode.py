"""What quantization aware training does with batch norms."""

from hqc.quantization.qat_mode import ConsistencyStrategy, QATMode, get_qat_mode, set_qat_mode, tricks

__all__ = ["ConsistencyStrategy", "QATMode", "get_qat_mode", "set_qat_mode", "tricks"]
