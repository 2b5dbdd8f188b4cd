"""`get_raw_features` and `profile_featuremap`: the results of a model's operations, and their statistics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hqc import arithmetic
from hqc.checked import checked
from hqc.utils.quant_profiler.stages import features
from hqc.utils.quant_profiler.tables import show, table

HEADER = ("Module Index", "Module Name", "Module Type", "Input/Output/Attr", "Min", "Max", "Mean", "Var", "Scale")


@checked
def get_raw_features(
    model: nn.Module,
    example_inputs: Any,
    prefixes: Sequence[str] = (),
    types: Sequence[type] = (),
    device: Any = None,
    preserve_int: bool = False,
    use_class_name: bool = False,
    skip_identity: bool = False,
) -> list[dict[str, Any]]:
    """A dict per operation in program order: `module_name`, `attr` ("output"), `data` (tensor), `scale`, `ch_axis`, `ff_method`.

    `prefixes`, `types`: only operations of modules whose path begins so, or of these classes. `preserve_int`: integers where the
    result has a grid. `device`, `use_class_name`, `skip_identity`: accepted and without effect.
    """
    del device, use_class_name, skip_identity
    modules = dict(model.named_modules())
    (found,) = features([model], example_inputs)
    rows = []
    for feature in found.values():
        kind = type(modules.get(feature.module))
        wanted = feature.module.startswith(tuple(prefixes)) if prefixes else not types
        if not wanted and kind not in types:
            continue
        data = feature.data
        if preserve_int and feature.scale is not None and feature.scale.size == 1 and data.dtype.kind == "f":
            data = arithmetic.quantize(data, feature.scale, 16 if feature.dtype == "qint16" else 8)
        rows.append(
            {
                "module_name": feature.module,
                "module_type": feature.op,
                "attr": "output",
                "data": torch.as_tensor(data),
                "scale": None if feature.scale is None else torch.as_tensor(feature.scale.copy()),
                "ch_axis": -1,
                "ff_method": None,
            }
        )
    return rows


@checked
def profile_featuremap(
    featuremap: Sequence[dict[str, Any]],
    with_tensorboard: bool = False,
    tensorboard_dir: str | None = None,
    print_per_channel_scale: bool = False,
    show_per_channel: bool = False,
    out_dir: str | os.PathLike[str] | None = None,
    file_name: str | None = None,
) -> list[list[Any]]:
    """Smallest, largest, mean and variance of each result of `get_raw_features`, printed and written to `statistic.txt`.

    The other arguments are accepted: histograms are in hqc's report (`hqc.compile(...).report(path)`).
    """
    del with_tensorboard, tensorboard_dir, print_per_channel_scale, show_per_channel
    rows = []
    for index, each in enumerate(featuremap):
        data = torch.as_tensor(each["data"]).double()
        scale = each.get("scale")
        numbers = [float(data.min()), float(data.max()), float(data.mean()), float(data.var(correction=0))]
        rows.append(
            [
                index,
                each["module_name"],
                each.get("module_type", ""),
                each["attr"],
                *numbers,
                None if scale is None else float(scale.max()),
            ]
        )
    show(table(HEADER, rows), out_dir, f"{file_name or 'statistic'}.txt")
    return rows
