"""How hard `hqc.compile` tries: steps of post-training quantization by name, and the efforts that take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from hqc.errors import InputError
from hqc.near_names import suggest

Effort = Literal["fast", "good", "best"]
Step = Literal["nearest", "equalize", "bias", "weights"]

STEPS: dict[Effort, tuple[Step, ...]] = {
    "fast": ("nearest",),
    "good": ("nearest", "equalize", "bias", "weights"),
    "best": ("nearest", "equalize", "bias", "weights"),  # more thoroughly
}
"""`nearest`: tables and biases make results round to nearest where the march floors. `bias`: biases move by the mean error of their layer.
`weights`: weights are chosen on their grid so that the layer's results come closest to the float ones. `equalize`:
channels of different ranges are brought closer where the layers that read them can undo it. The first needs no data; the others are
measured on calibration data and kept where they gain."""


def steps_of(effort: str, without: Sequence[str] = ()) -> tuple[Step, ...]:
    """The steps that an effort takes, but those in `without`; `InputError` for unknown names."""
    known = get_args(Effort)
    if effort not in known:
        raise InputError(f"effort must be one of {', '.join(known)}, got {effort!r}")
    steps = get_args(Step)
    for name in without:
        if name not in steps:
            raise InputError(f"without has the unknown step {name!r}; there are {', '.join(steps)}{suggest(str(name), steps)}")
    return tuple(step for step in STEPS[effort] if step not in without)  # type: ignore[index]
