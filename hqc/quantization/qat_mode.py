"""What quantization aware training does with batch norms: one choice for the process, read by prepare and by fusing."""

from __future__ import annotations

import logging
from typing import Any

from hqc.absent import absent
from hqc.checked import checked
from hqc.errors import InputError
from hqc.near_names import suggest

logger = logging.getLogger("hqc")


class QATMode:
    """The modes. `FuseBN`: batch norms are folded into the layer before them, and training moves the folded weights. `WithBN` and
    `WithBNReverseFold`: they stay inside the fused layer, follow the batches' statistics, and are folded by conversion and export;
    the weight is fake-quantized as it is deployed, folded, in both."""

    FuseBN = "fuse_bn"
    WithBN = "with_bn"
    WithBNReverseFold = "with_bn_reverse_fold"


MODES = (QATMode.FuseBN, QATMode.WithBN, QATMode.WithBNReverseFold)
_mode = QATMode.FuseBN


@checked
def set_qat_mode(mode: str) -> None:
    """Choose the mode (a member of QATMode) before fusing and preparing."""
    global _mode
    if mode not in MODES:
        raise InputError(f"unknown QAT mode {mode!r}{suggest(str(mode), MODES) or '; known: ' + ', '.join(MODES)}")
    _mode = mode


def get_qat_mode() -> str:
    """The mode chosen with `set_qat_mode`; `QATMode.FuseBN` when none was."""
    return _mode


def keeps_batch_norm() -> bool:
    """The mode keeps batch norms."""
    return _mode != QATMode.FuseBN


class _Tricks:
    """Switches of the reference's own tracer and kernels. Setting one is said and changes nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        logger.warning("qat_mode.tricks.%s has no counterpart: hqc plans every call by itself, shared modules included", name)
        super().__setattr__(name, value)


tricks = _Tricks()
ConsistencyStrategy: Any = absent(
    "hqc.qat_mode.ConsistencyStrategy",
    "has no counterpart: what is trained is what is simulated and written; compare stages with hqc.utils.quant_profiler",
)
