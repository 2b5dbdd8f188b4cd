"""Lowerings by family. Importing this package registers all of them."""

from hqc.frontend.fx.lowerings import (  # noqa: F401
    activation,
    boundary,
    casting,
    conv,
    elementwise,
    functional,
    indexing,
    layout,
    matmul,
    normalization,
    pooling,
    reduction,
    resizing,
    splitting,
)
