"""The qconfigs under the path that older scripts import them from."""

from hqc.quantization.qconfig import *  # noqa: F403
from hqc.quantization.qconfig import __all__ as __all__
