"""Op declarations by family. Importing this package registers all of them."""

from hqc.ir.ops import (  # noqa: F401
    activation,
    boundary,
    conv,
    elementwise,
    integer,
    layout,
    normalization,
    pooling,
    reduction,
    special,
)
