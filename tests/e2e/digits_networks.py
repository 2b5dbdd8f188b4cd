"""The float networks that the digits tests share: trained once per fold and process."""

from __future__ import annotations

import copy
from functools import cache

from hqc.demo import DigitsNet, load_digits, trained_network


@cache
def _trained(fold: int) -> DigitsNet:
    return trained_network(load_digits(fold), seed=fold)


def float_network(fold: int) -> DigitsNet:
    """A copy of the network trained on all folds but `fold`."""
    return copy.deepcopy(_trained(fold))
