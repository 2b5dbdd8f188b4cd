"""Quantized dtypes by name."""

from hqc.quantization.dtypes import QuantDType, QuantInfo, qinfo, qint8, qint16, qint32

__all__ = ["QuantDType", "QuantInfo", "qinfo", "qint8", "qint16", "qint32"]
