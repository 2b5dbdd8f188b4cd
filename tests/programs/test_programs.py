"""The invariants of DESIGN section 1 on sixty generated programs, each on one march; `python tests/programs` runs more of them."""

from __future__ import annotations

import pytest
from checks import CHECKS, MARCHES
from generate import generate

PROGRAMS = 60


@pytest.mark.parametrize("check", list(CHECKS))
@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_generated_program_keeps(check: str, seed: int) -> None:
    function, stubs = CHECKS[check]
    function(generate(seed, stubs=stubs), MARCHES[seed % len(MARCHES)])


def test_a_seed_gives_the_same_program_every_time() -> None:
    assert generate(7).source == generate(7).source != generate(8).source


def test_the_programs_of_the_suite_contain_every_step() -> None:
    from steps import STEPS

    taken = {feature for seed in range(PROGRAMS) for feature in generate(seed).features}
    assert set(STEPS) <= taken
