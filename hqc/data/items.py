"""What a loader yields (batches or single samples: tensors, arrays, tuples with labels, dicts) as arrays by input name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hqc.data.arrays import as_array
from hqc.data.inputs import Array, InputSpec, as_samples
from hqc.errors import InputError
from hqc.near_names import suggest

LABELS = ("label", "labels", "target", "targets", "y")


def split_labels(item: Any, count: int) -> tuple[Any, Any]:
    """A tuple or list that is longer than the model's `count` inputs is (inputs, labels): what is behind the inputs is the labels."""
    if isinstance(item, (tuple, list)) and len(item) > count and all(_is_data(each) for each in item[:count]):
        rest = item[count:]
        return tuple(item[:count]), rest[0] if len(rest) == 1 else rest
    return item, None


def _is_data(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, (Mapping, tuple, list))


def by_input(
    named: Mapping[str, Any], specs: Sequence[InputSpec], where: str, *, named_by_user: bool = False
) -> tuple[dict[str, Any], Any]:
    """Entries of `named` for every input, and its labels (None without).

    By name; where no name fits, a single entry goes to a single input, and `arr_0`, `0` and so on go by position (`named_by_user`: the
    names mean something, so they must fit). `InputError` lists what is missing.
    """
    names = [spec.name for spec in specs]
    labels = next((named[key] for key in LABELS if key in named and key not in names), None)
    rest = {key: value for key, value in named.items() if key not in LABELS or key in names}
    if all(name in named for name in names):
        return {name: named[name] for name in names}, labels
    loose = not named_by_user and not any(name in named for name in names)
    if loose and len(rest) == len(names) and (len(names) == 1 or _positional(rest)):
        return dict(zip(names, rest.values(), strict=True)), labels
    if loose and len(rest) != len(names):
        raise InputError(
            f"{where} holds {len(rest)} array{'s'[: len(rest) != 1]} ({', '.join(map(str, rest))}), the model takes {len(names)} "
            f"input{'s'[: len(names) != 1]} ({', '.join(names)})"
        )
    missing = next(name for name in names if name not in named)
    raise InputError(
        f"{where} lacks the input {missing}; it holds {', '.join(map(str, named))}{suggest(missing, map(str, named))}"
    )


def _positional(named: Mapping[str, Any]) -> bool:
    return all(str(key).removeprefix("arr_") == str(index) for index, key in enumerate(named))


def read_item(item: Any, specs: Sequence[InputSpec], where: str, layout: str | None = None) -> tuple[dict[str, Array], Any]:
    """One batch or sample of a loader as `[samples, ...]` arrays by input name, and its labels (None without)."""
    inputs, labels = split_labels(item, len(specs))
    if isinstance(inputs, Mapping):
        named, labels = by_input(inputs, specs, where, named_by_user=True)
    else:
        values = list(inputs) if isinstance(inputs, (tuple, list)) and len(inputs) == len(specs) else [inputs]
        if len(values) != len(specs):
            raise InputError(f"{where} is a {type(item).__name__} of one input, the model takes {len(specs)}")
        named = dict(zip((spec.name for spec in specs), values, strict=True))
    arrays = {}
    for spec in specs:
        value = named[spec.name]
        if isinstance(value, (str, bytes)) or (value is None):
            raise InputError(f"{where}: input {spec.name} must be a tensor or an array, got {type(value).__name__}")
        arrays[spec.name] = as_samples(as_array(value, f"{where}: input {spec.name}"), spec, where, layout=layout)
    return arrays, labels
