"""The ONNX package's own test data: every node test is lowered and right, kept as it is, or refused in one sentence."""

from __future__ import annotations

import collections
import functools
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_harness import run_lowered, session

from hqc.errors import HqcError
from hqc.frontend.onnx import lower_onnx

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


@functools.cache
def node_tests():  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    return [case for case in cases if all(item.domain in ("", "ai.onnx") for item in case.model.opset_import)]


def has_half_precision(model: onnx.ModelProto) -> bool:
    """Computed in float32 here, so the results differ by what half precision loses."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    casts = (item.i for node in model.graph.node for item in node.attribute if item.name == "to")
    return any(code in halves for code in casts) or "float16" in onnx.printer.to_text(model)


@pytest.mark.parametrize("part", range(4))
def test_node_tests_are_lowered_right_or_refused_in_one_sentence(part: int) -> None:
    """Operators that the IR expresses must be right; opaque ones are onnxruntime's own and only have to keep their types."""
    counts: collections.Counter[str] = collections.Counter()
    sentences: list[str] = []
    for case in node_tests()[part::4]:
        try:
            lowered = lower_onnx(case.model)
        except HqcError as error:
            sentences.append(str(error))
            continue
        if lowered.opaque:
            counts["opaque"] += 1
            continue
        names = [item.name for item in case.model.graph.input]
        for feeds, expected in case.data_sets:
            if has_half_precision(case.model) or not all(isinstance(item, np.ndarray) for item in (*feeds, *expected)):
                continue
            for got, want in zip(run_lowered(lowered, dict(zip(names, feeds, strict=True))), expected, strict=True):
                assert got.shape == want.shape, case.name
                np.testing.assert_allclose(
                    got.astype(np.float64), want.astype(np.float64), rtol=1e-3, atol=1e-5, err_msg=case.name
                )
        counts["right"] += 1
    version = tuple(int(part) for part in onnx.__version__.split(".")[:2])
    assert counts["right"] >= (130 if version >= (1, 17) else 110), counts  # older packages have fewer cases
    assert not [sentence for sentence in sentences if "\n" in sentence]


@pytest.mark.parametrize("file", [f for f in LIGHT if "vgg" not in f.name], ids=lambda file: file.stem)
def test_classic_networks_compute_what_onnxruntime_computes(file: Path) -> None:
    lowered = lower_onnx(file)
    (value,) = lowered.graph.inputs
    feeds = {value.name: np.random.default_rng(0).random(value.shape, dtype=np.float32)}
    (got,), (want,) = run_lowered(lowered, feeds), session(onnx.load(file)).run(None, feeds)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
