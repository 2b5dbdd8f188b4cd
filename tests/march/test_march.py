"""Marches by name, and the march chosen for the process."""

from __future__ import annotations

import pytest

from hqc.errors import MarchError
from hqc.ir import DType
from hqc.march import March, all_specs, get_march, get_spec, set_march, state


@pytest.fixture(autouse=True)
def _no_march(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_current", None)


def test_a_march_that_was_not_set_is_an_error_that_says_how_to_set_it() -> None:
    with pytest.raises(MarchError, match=r"no march is set; call hqc\.march\.set_march"):
        get_march()


@pytest.mark.parametrize("given", [March.BAYES_E, "bayes-e", "BAYES_E"])
def test_a_march_is_set_by_member_or_name(given: March | str) -> None:
    set_march(given)
    assert get_march() is March.BAYES_E
    assert get_spec(given).name == "bayes-e"


def test_an_unknown_march_is_an_error_with_near_names() -> None:
    with pytest.raises(MarchError, match="unknown march 'bernouli2'; did you mean bernoulli2"):
        set_march("bernouli2")
    with pytest.raises(MarchError, match="got 3"):
        get_spec(3)  # type: ignore[arg-type]


def test_arithmetic_numbers_of_the_marches() -> None:
    bernoulli, bernoulli2, bayes, bayes_e = all_specs()
    assert bernoulli.power_of_two and bernoulli.int8_bias and bernoulli.rounding == "floor"
    assert not bernoulli.requantize_at_cat and "avg_pool2d" in bernoulli.pass_through_ops
    assert (bernoulli.resize_fraction_bits, bernoulli2.resize_fraction_bits, bayes.resize_fraction_bits) == (8, 8, 16)
    assert bernoulli2.activation_dtypes == (DType.INT8,)
    assert bayes.activation_dtypes == bayes_e.activation_dtypes == (DType.INT8, DType.INT16)
    assert not any(spec.power_of_two for spec in (bernoulli2, bayes, bayes_e))
