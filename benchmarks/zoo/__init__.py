"""The zoo: one small network per published family, in plain torch, written as published code is written.

    from benchmarks.zoo import ZOO
    network, inputs = ZOO["swin"].build(), ZOO["swin"].inputs(seed=1)

`benchmarks.zoo.whole_way` takes one through everything that hqc does with a model.
"""

from . import classification, dense, detection, sequences, transformers, unnormalized  # noqa: F401  (they register their networks)
from .registry import ZOO, ZooEntry

__all__ = ["ZOO", "ZooEntry"]
