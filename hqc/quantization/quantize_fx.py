"""The FX entry points under the reference's path."""

from hqc.lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "hqc.workflow.prepare": ("prepare_calibration_fx", "prepare_qat_fx"),
        "hqc.workflow.convert": ("convert_fx",),
        "hqc.workflow.fuse": ("fuse_fx",),
    },
)
