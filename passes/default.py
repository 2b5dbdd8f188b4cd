"""The pipelines that every entry point uses: for float models, and for prepared models that were lowered again."""

from __future__ import annotations

from typing import Literal

from hqc.passes.pipeline import PassPipeline, parse_pipeline
from hqc.passes.registry import get_pass

PLACE = "canonicalize,apply-overrides,fold-batch-norm,fuse-conv,analyze-support,partition"
# What has no QAT module (a functional convolution with its batch norm) is folded and fused again, as the plan says.
# Absorbing the fake quants between BPU nodes makes subgraphs adjacent that they kept apart: partition once more.
DEPLOY = (
    "canonicalize,fold-batch-norm,fuse-conv,apply-plan,partition,insert-boundaries{form=deployed},partition,"
    "settle-rounding,propagate-scales,unify-cat-scales"
)


def prepare_pipeline(
    *,
    auto_stub: bool = False,
    horizontal_merge: bool = False,
    min_macs: float = 0.0,
    min_nodes: int = 0,
    share: bool = False,
    verify: bool = True,
) -> PassPipeline:
    """Float model to the whole plan: what runs where, where fake quants and dequants go, who is observed and how it is rounded.

    `prepare_*_fx` emits the result. `auto_stub`: quantize graph inputs that BPU nodes read, instead of refusing them.
    `horizontal_merge`, `min_macs` and `min_nodes` are options of `partition`, `share` of `place-observers`.
    """
    pipeline = _place(horizontal_merge, min_macs, min_nodes, verify)
    pipeline.append(f"insert-boundaries{{form=qat,auto-stub={str(auto_stub).lower()}}}")
    return pipeline.append(f"place-observers{{share={str(share).lower()}}},settle-rounding")


def explain_pipeline(
    *, horizontal_merge: bool = False, min_macs: float = 0.0, min_nodes: int = 0, verify: bool = True
) -> PassPipeline:
    """Float model to the placement and boundaries of the deployed program, without scales."""
    pipeline = _place(horizontal_merge, min_macs, min_nodes, verify)
    pipeline.append("insert-boundaries{form=deployed}")
    return pipeline.append(get_pass("partition")(**{"horizontal_merge": horizontal_merge}))


def deploy_pipeline(
    *,
    integer: bool = False,
    optimized: bool = False,
    cat_policy: Literal["output", "largest"] = "output",
    verify: bool = True,
) -> PassPipeline:
    """Prepared model, lowered again and carrying scales, to the *scaled* graph or, with `integer`, the *integer* graph.

    Devices come from the plan in the pass context. `optimized` (the model was prepared with `optimize_graph`) and
    `cat_policy` are options of `unify-cat-scales`.
    """
    pipeline = parse_pipeline(DEPLOY, verify=verify)
    unify = {"policy": cat_policy, "optimized": optimized}
    pipeline.replace("unify-cat-scales", get_pass("unify-cat-scales")(**unify))
    return pipeline.append("lower-to-integer") if integer else pipeline


def _place(horizontal_merge: bool, min_macs: float, min_nodes: int, verify: bool) -> PassPipeline:
    limits = {"horizontal_merge": horizontal_merge, "min_macs": float(min_macs), "min_nodes": min_nodes}
    return parse_pipeline(PLACE, verify=verify).replace("partition", get_pass("partition")(**limits))
