"""Imports every family of integer lowerings, which registers them."""

import hqc.passes.lower_to_integer.activation
import hqc.passes.lower_to_integer.conv
import hqc.passes.lower_to_integer.elementwise
import hqc.passes.lower_to_integer.layout
import hqc.passes.lower_to_integer.pooling
import hqc.passes.lower_to_integer.reduction  # noqa: F401
