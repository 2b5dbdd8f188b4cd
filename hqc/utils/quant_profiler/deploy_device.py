"""`check_deploy_device`: which device each operation of a prepared model is deployed to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import fx, nn

from hqc.checked import checked
from hqc.errors import InputError
from hqc.files import make_parent, write_file
from hqc.frontend.fx.training import IDENTITY_META
from hqc.ir import Device
from hqc.quantization.off_grid import OffGridFakeQuantize
from hqc.workflow.deferred import refuse_waiting
from hqc.workflow.prepared import ObservedGraphModule

HEADER = ("name", "deploy device", "type")
_TYPES = {"call_module": "module", "call_function": "function", "call_method": "method"}


@checked
def check_deploy_device(
    model: nn.Module, print_tabulate: bool = True, out_dir: str | os.PathLike[str] | None = None
) -> dict[str, tuple[str, str]]:
    """`{name: (device, type)}` for every operation of a prepared model, in program order.

    `name`: a module's path, otherwise the FX node's name. `print_tabulate`: print the table. `deploy_device.txt` with the same
    table is written into `out_dir` (default: the current folder). `InputError` for another kind of model or an unusable folder.
    """
    refuse_waiting(model, "check_deploy_device")
    if not isinstance(model, ObservedGraphModule):
        raise InputError(
            f"check_deploy_device takes a model from prepare_qat_fx or prepare_calibration_fx, got {type(model).__name__}"
        )
    result = {name: (device, kind) for name, device, kind in _rows(model)}
    text = tabulate([(name, *entry) for name, entry in result.items()])
    if print_tabulate:
        sys.stdout.write(text)
    path = Path(out_dir or ".") / "deploy_device.txt"
    make_parent(path)
    write_file(path, text.encode())
    return result


def _rows(model: ObservedGraphModule) -> Iterator[tuple[str, str, str]]:
    devices = model.preparation.plan.devices
    for node in model.graph.nodes:
        if node.op not in _TYPES or node.target == "result_like" or node.meta.get(IDENTITY_META):
            continue
        name = node.name
        if node.op == "call_module":
            name = str(node.target)
            if isinstance(model.get_submodule(name), (nn.Identity, OffGridFakeQuantize)) or _observes_bpu(node, devices):
                continue
        device = devices.get(node.name, Device.CPU)
        yield name, device.value.upper(), _TYPES[node.op]


def _observes_bpu(node: fx.Node, devices: dict[str, Device]) -> bool:
    """True for the fake quant of a BPU function: part of that function, without a row of its own."""
    if not node.name.endswith("_activation_post_process"):
        return False
    source = node.args[0]
    return isinstance(source, fx.Node) and devices.get(source.name) is Device.BPU


def tabulate(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell (headers with two blanks to spare), a dashed line under the header."""
    widths = [max([len(title) + 2, *(len(row[i]) for row in rows)]) for i, title in enumerate(HEADER)]
    lines = [HEADER, tuple("-" * width for width in widths), *rows]
    return (
        "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
        + "\n"
    )
