"""Subgraphs of the sample logs, and which rules of placement the logs need: each is left out and the logs scored again."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from scoring import LOGS, MARCH_OF_PREFIX, models_with_logs, network_of, score

import hqc
from hqc.march import get_spec
from hqc.passes import support_context

NETWORKS = models_with_logs()

NEEDED = {
    "observed_limits": {"x3_yolov8n_official": ["Sigmoid_189"]},
    "focus_slices": {
        "x3_yolov5s_focus_reshape": [*[f"Slice_{index}" for index in (5, 10, 15, 20, 25, 30, 35, 40)], "Concat_41"]
    },
    "cat_of_bpu_values": {"x3_yolov5s_focus_reshape": ["Concat_41"]},
    "passive_without_user": {"x3_yolov8n_official": ["Concat_137", "Concat_148", "Concat_159"]},
}
"""Rule -> log -> rows that are elsewhere without it. The other rules rest on what `source` and docs/adding_a_march.md say of them."""


@pytest.mark.parametrize("log", sorted(NETWORKS))
def test_as_many_subgraphs_as_the_compiler_makes(log: str) -> None:
    network, shape = network_of(NETWORKS[log])
    explained = hqc.explain(network, (torch.zeros(1, *shape),), march=MARCH_OF_PREFIX[log.partition("_")[0]])
    with open(LOGS / f"{log}.csv", encoding="utf-8") as file:
        listed = {row["subgraph"] for row in csv.DictReader(file) if row["subgraph"]}
    assert len({node.subgraph for node in explained.graph.nodes if node.subgraph is not None}) == len(listed)


def disagreements() -> Iterator[tuple[str, list[str]]]:
    for log, model in sorted(NETWORKS.items()):
        rows = [each.row for each in score(log, model).disagreements]
        if rows:
            yield log, rows


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_the_logs_need_the_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_context, "RULES", [rule for rule in support_context.RULES if rule.check.__name__ != name])
    assert dict(disagreements()) == NEEDED[name]


def test_the_logs_need_what_x5_lets_passive_ops_do(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = get_spec("bayes-e")
    changed = dataclasses.replace(spec, passive_follows_user=False)
    monkeypatch.setattr(hqc.march, "get_spec", lambda march: changed if march == spec.name else get_spec(march))
    assert dict(disagreements()) == {"x5_yolo11_arm_chk": ["/model.10/m/m.0/attn/Transpose_1"]}
