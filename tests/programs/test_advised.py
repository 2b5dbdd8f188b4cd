"""Advice on generated programs against the slow way; `python tests/programs --check advice` does more of them."""

from __future__ import annotations

import advised
import pytest
from checks import MARCHES
from generate import generate


@pytest.mark.parametrize("seed", [*range(20), 29, 37, 46, 50, 57])
def test_no_change_or_pair_brings_more_than_what_is_advised(seed: int) -> None:
    advised.check(generate(seed), MARCHES[seed % len(MARCHES)])
