"""Float networks for benchmarks and tests: plain torch, random weights, no download.

    from benchmarks.models import build
    model, example = build("resnet18")

`build` seeds the generator, so that a name always means the same weights. Where a network mirrors a public vendor log, its
module docstring says which one, and its module paths are the node names of that log (`/model.0/conv/Conv` is `model.0.conv`).
"""

from .registry import MODELS, ModelEntry, build, model, seeded

__all__ = ["MODELS", "ModelEntry", "build", "model", "seeded"]
