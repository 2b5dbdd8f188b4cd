"""hqc's placement against public logs of the vendor's compiler."""

from __future__ import annotations

import functools

import pytest
from scoring import MARCH_OF_PREFIX, Score, models_with_logs, module_path, read_log, score

REBUILT = models_with_logs()


@functools.cache
def scored(log: str) -> Score:
    return score(log, REBUILT[log])


def pooled(march: str) -> Score:
    scores = [scored(log) for log in sorted(REBUILT) if MARCH_OF_PREFIX[log.partition("_")[0]] == march]
    total = scores[0]
    for each in scores[1:]:
        total += each
    return total


def test_every_log_whose_network_can_be_rebuilt_is_scored() -> None:
    assert set(REBUILT) >= {
        "j5_yolov8s",
        "x3_cifar_imageclassifier",
        "x3_ufld",
        "x3_yolov8n_official",
        "x5_repvgg_a2_chk",
        "x5_simplenet",
        "x5_yolo11_arm_chk",
        "x5_yolov8n",
    }


@pytest.mark.parametrize("log", sorted(REBUILT))
def test_every_row_of_a_log_has_its_node(log: str) -> None:
    result = scored(log)
    assert result.unmatched == ()
    assert result.rows == len(read_log(log))


@pytest.mark.parametrize("march", ["bernoulli2", "bayes", "bayes-e"])
def test_placement_agrees_with_the_logs(march: str) -> None:
    total = pooled(march)
    listed = [f"{d.log} {d.row}: log {d.vendor}, hqc {d.ours}: {d.reason}" for d in total.disagreements]
    assert total.agreement >= 0.98, listed
    assert total.cpu_recall >= 0.90, listed
    assert total.bpu_recall >= 0.95, listed
    assert total.agreement >= total.all_bpu, listed


def test_rows_of_the_tool_itself_are_left_out() -> None:
    names = [row.name for row in read_log("x3_cifar_imageclassifier")]
    assert names == ["Conv_0", "Conv_2", "MaxPool_4", "Conv_5", "Conv_7", "Reshape_10", "Gemm_11"]
    assert not any("Requantize" in row.name or "FUSE_SCALE" in row.name for row in read_log("x5_yolov8n"))


def test_nested_scopes_become_module_paths() -> None:
    assert module_path(["model.22", "cv3.0", "cv3.0.0", "conv"]) == "model.22.cv3.0.0.conv"
    assert module_path(["model.6", "m.0", "m", "m.0", "cv1"]) == "model.6.m.0.m.0.cv1"
