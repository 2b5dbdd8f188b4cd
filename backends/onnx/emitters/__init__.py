"""Emitters by op family. Importing this package registers all of them."""

from hqc.backends.onnx.emitters import (  # noqa: F401
    activation,
    boundary,
    conv,
    elementwise,
    integer,
    layout,
    normalization,
    pooling,
    reduction,
)
