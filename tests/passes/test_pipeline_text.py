"""Pipeline text: options of every type, exact printing, and errors that point at the column."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc.errors import ParseError
from hqc.passes import parse_pipeline
from hqc.passes.partition import Partition


def test_options_come_from_the_fields_of_the_pass() -> None:
    pipeline = parse_pipeline("  canonicalize ,\n partition{ min-macs=1e6, horizontal-merge min-nodes=2e0 } ")
    assert pipeline.passes[1] == Partition(horizontal_merge=True, min_macs=1e6, min_nodes=2)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("canonicalise", 1, 1, "there is no pass 'canonicalise'; did you mean canonicalize"),
        ("canonicalize,,partition", 1, 14, "expected the name of a pass, found ','"),
        ("canonicalize,", 1, 14, "expected the name of a pass, found the end of the text"),
        ("canonicalize partition", 1, 14, "expected ',' before the next pass, found 'partition'"),
        ("canonicalize,\n partition{min-mac=3}", 2, 12, "partition has no option 'min-mac'; did you mean min-macs"),
        ("partition{min-nodes=1.5}", 1, 21, "option min-nodes must be int, got '1.5'"),
        ("partition{min-nodes}", 1, 11, "option min-nodes needs a value: min-nodes=<int>"),
        ("partition{min-nodes=1,min-nodes=2}", 1, 23, "option min-nodes is given twice"),
        ("partition{horizontal-merge=yes}", 1, 28, "option horizontal-merge must be true or false, got 'yes'"),
        ("partition{min-macs=-1}", 1, 1, "partition: min-macs and min-nodes must not be negative"),
        ("insert-boundaries{form=qta}", 1, 24, "option form must be one of qat, deployed, got 'qta'"),
        ("partition{min-macs=inf,min-nodes=inf}", 1, 34, "option min-nodes must be int, got 'inf'"),
        ("partition{", 1, 11, "expected an option of partition or '}', found the end of the text"),
        ('insert-boundaries{form="qat', 1, 24, "this quote is never closed"),
        ("", 1, 1, "expected the name of a pass, found the end of the text"),
    ],
)
def test_errors_point_at_the_offending_word(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ParseError) as error:
        parse_pipeline(text)
    assert (error.value.line, error.value.column) == (line, column), str(error.value)
    assert message in str(error.value)
    assert str(error.value).splitlines()[-1] == "  " + " " * (column - 1) + "^"


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.floats(0, allow_infinity=False, allow_nan=False), st.integers(0, 10**12))
def test_printed_pipelines_parse_back_equal(merge: bool, macs: float, nodes: int) -> None:
    item = Partition(merge, macs, nodes)
    text = str(parse_pipeline("canonicalize").append(item))
    assert parse_pipeline(text).passes[1] == item
    assert str(parse_pipeline(text)) == text
