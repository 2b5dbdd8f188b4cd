"""`script_profile` and `compare_script_models`: the integers of converted models, value by value."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from hqc.checked import checked
from hqc.utils.deploy_calls import compiled_model
from hqc.utils.quant_profiler.stages import Array
from hqc.utils.quant_profiler.tables import show, table
from hqc.workflow.arguments import as_tuple, tensors_of


def integers(model: nn.Module, example_inputs: Any) -> dict[str, Array]:
    """Every value of one simulated run by name, as the chip would hold it."""
    found = compiled_model(model, example_inputs)
    arrays = [np.asarray(each) for each in tensors_of(as_tuple(example_inputs) or ())]
    return found.run_all(arrays)


@checked
def script_profile(
    model: nn.Module,
    example_inputs: Any,
    out_dir: str | os.PathLike[str] | None = None,
    march: Any = None,
    mark_node_func: Callable[[Any], Any] | None = None,
    compare_with_hbdk_parser: bool = False,
) -> dict[str, Array]:
    """The values of a converted model (or of a trace of one) for one input, with their statistics in `profile.txt`.

    `compare_with_hbdk_parser` compares with the vendor's parser in the reference; there is none here, and it is without effect, as are
    `march` and `mark_node_func`.
    """
    del march, mark_node_func, compare_with_hbdk_parser
    values = integers(model, example_inputs)
    rows = [
        [
            name,
            str(array.dtype),
            list(array.shape),
            float(array.min(initial=0)),
            float(array.max(initial=0)),
            float(array.mean()),
        ]
        for name, array in values.items()
    ]
    show(table(("Value", "dtype", "shape", "Min", "Max", "Mean"), rows), out_dir, "profile.txt")
    return values


@checked
def compare_script_models(model1: nn.Module, model2: nn.Module, example_inputs: Any, march: Any = None) -> list[list[Any]]:
    """The values that differ between two converted models (or traces), in program order: name, how many elements, by how much at most.

    A value that only one of them has is a row with nothing behind its name. `march`: accepted and without effect.
    """
    del march
    first, second = (integers(model, example_inputs) for model in (model1, model2))
    rows: list[list[Any]] = []
    for name in dict.fromkeys((*first, *second)):
        a, b = first.get(name), second.get(name)
        if a is None or b is None or a.shape != b.shape:
            rows.append([name, None, None])
        elif not np.array_equal(a, b):
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
            rows.append([name, int((difference > 0).sum()), float(difference.max())])
    text = table(("Value", "Elements", "Largest difference"), rows) if rows else "the models compute the same integers\n"
    show(text, None, "script_comparison.txt")
    return rows
