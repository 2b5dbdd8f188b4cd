"""`load_samples`: data as users have it, as batches that a model takes. What every entry point and command reads data with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hqc.checked import checked, explained
from hqc.data.inputs import Array, InputSpec, batch_size, input_specs
from hqc.data.preprocessing import Preprocessing
from hqc.data.sources import ArrayFile, Chunk, FileFolder, Loader, Reading, Source, Together
from hqc.errors import InputError
from hqc.files import path_text
from hqc.ir import Graph
from hqc.near_names import suggest
from hqc.python_files import find_object, guarded

PathLike = str | os.PathLike[str]
Place = PathLike | Mapping[str, PathLike] | Sequence[PathLike]


@explained
@dataclass(frozen=True)
class DataSpec:
    """What data to use, before it is known which model it is for. `hqc.compile` and the commands take it.

    `place`: a folder of pictures, arrays or raw files (with a sub-folder per input where there are several); a file (.npy, .npz
    by input name, .pt, .safetensors, raw); `loader.py:function` or `package.module:function`, whose function returns (or whose
    object is) an iterable of batches or samples, with or without labels; a list of files; or places by input name.
    `preprocessing`: of pictures; mean and scale hold for arrays of pixels too. `samples`: use at most so many, None: all. `shape`,
    `dtype`: of one sample in raw files.
    """

    place: Place
    preprocessing: Preprocessing | None = None
    samples: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")


@explained
@dataclass
class Samples:
    """Data for a model, read as it is asked for.

    `inputs`: what the model takes. `source`: where it comes from. `limit`: how many samples are used at most. `preprocessing`: by
    input, what was done to its pictures; an input that is not there was given as it is.
    """

    inputs: tuple[InputSpec, ...]
    source: Source
    limit: int | None = None
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """Samples that will be used; None where that shows only at the end (a generator, files of several samples)."""
        known = self.source.count
        return known if self.limit is None or known is None else min(known, self.limit)

    @property
    def what(self) -> str:
        """Where the samples come from and what is done to them, in words."""
        done = "; ".join(dict.fromkeys(str(each) for each in self.preprocessing.values()))
        return f"{self.source.what}{f' ({done})' if done else ''}"

    def batches(self, size: int | None = None) -> Iterator[dict[str, Array]]:
        """Arrays by input name, `[size, ...]` each (the last may have fewer); `size` None: what the model was compiled for."""
        for inputs, _ in self.labelled(size):
            yield inputs

    def labelled(self, size: int | None = None) -> Iterator[tuple[dict[str, Array], Any]]:
        """As `batches`, each with its labels (an array with one entry a sample), None where the data has none."""
        wanted = batch_size(self.inputs) if size is None else size
        if wanted < 1:
            raise InputError(f"a batch has at least one sample, got {size}")
        held: list[Chunk] = []
        for chunk in self._limited():
            held.append(chunk)
            while sum(each.size for each in held) >= wanted:
                taken, held = _take(held, wanted)
                yield self._batch(taken), taken.labels
        if held:
            taken, _ = _take(held, wanted)
            yield self._batch(taken), taken.labels

    def first(self, count: int) -> dict[str, Array]:
        """The first `count` samples (or all, where there are fewer) as one batch."""
        return next(self.batches(count))

    def batch_count(self, size: int | None = None) -> int | None:
        """How many batches `batches(size)` yields; None where that shows only at the end."""
        wanted = batch_size(self.inputs) if size is None else size
        return None if self.count is None else -(-self.count // wanted)

    def _limited(self) -> Iterator[Chunk]:
        left, used = self.limit, 0
        for chunk in self.source.chunks():
            if left is not None and used + chunk.size > left:
                chunk = _slice(chunk, 0, left - used)
            used += chunk.size
            if chunk.size:
                yield chunk
            if left is not None and used >= left:
                break
        if not used:
            raise InputError(f"{self.source.what} holds no samples")

    def _batch(self, chunk: Chunk) -> dict[str, Array]:
        """Inputs without a batch axis lose the axis of the samples; they must be the same in all samples of a batch."""
        arrays = {}
        for spec in self.inputs:
            array = chunk.inputs[spec.name]
            if not spec.batched:
                if len(array) > 1 and not (array == array[:1]).all():
                    raise InputError(
                        f"input {spec.name} has no batch axis and differs between the samples of a batch; use batches of one sample"
                    )
                array = array[0]
            arrays[spec.name] = np.require(array, requirements=["C", "W"])
        return arrays


def _slice(chunk: Chunk, start: int, stop: int) -> Chunk:
    labels = None if chunk.labels is None else chunk.labels[start:stop]
    return Chunk({name: array[start:stop] for name, array in chunk.inputs.items()}, labels)


def _take(held: list[Chunk], count: int) -> tuple[Chunk, list[Chunk]]:
    """The first `count` samples of `held` (fewer where there are no more) as one chunk, and the rest."""
    taken: list[Chunk] = []
    rest = list(held)
    while rest and count > 0:
        chunk = rest.pop(0)
        taken.append(_slice(chunk, 0, count))
        if chunk.size > count:
            rest.insert(0, _slice(chunk, count, chunk.size))
        count -= chunk.size
    inputs = {name: _joined([chunk.inputs[name] for chunk in taken]) for name in taken[0].inputs}
    labelled = all(chunk.labels is not None for chunk in taken)
    return Chunk(inputs, _joined([np.asarray(chunk.labels) for chunk in taken]) if labelled else None), rest


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@checked
def load_samples(
    data: Place | DataSpec,
    inputs: Graph | Sequence[InputSpec],
    *,
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
) -> Samples:
    """Data for a model with these `inputs` (its graph, or specs). See `DataSpec` for what `data` and the options may be.

    Files are opened here, pictures and arrays of a folder when their batch is asked for. `InputError` for what is not there, cannot
    be read, or does not fit the model.
    """
    if not isinstance(data, DataSpec):
        data = DataSpec(data, preprocessing, samples, None if shape is None else tuple(shape), dtype)
    specs = input_specs(inputs)
    if not specs:
        raise InputError("the model takes no inputs, so there is no data to read for it")
    given = data.preprocessing
    reading = Reading(given or Preprocessing(), given is not None, data.shape, data.dtype)
    source = _source(data.place, specs, reading)
    return Samples(specs, source, data.samples, dict(source.preprocessing))


def _source(place: Place, specs: tuple[InputSpec, ...], reading: Reading) -> Source:
    if isinstance(place, Mapping):
        return _by_name({str(name): each for name, each in place.items()}, specs, reading)
    if not isinstance(place, (str, os.PathLike)):
        files = [Path(path_text(each)) for each in place]
        missing = next((path for path in files if not path.is_file()), None)
        if missing is not None:
            raise InputError(f"there is no file {missing}")
        return FileFolder(files, specs, reading)
    text = path_text(place)
    path = Path(text)
    if path.is_dir():
        parts = {spec.name: path / spec.name for spec in specs if (path / spec.name).is_dir()}
        if parts and (len(specs) > 1 or len(list(path.iterdir())) == 1):
            return _by_name(parts, specs, reading)
        return FileFolder(path, specs, reading)
    if path.is_file() or ":" not in text:
        if not path.is_file():
            raise InputError(f"there is no file {path} and no folder of that name")
        if path.suffix.lower() == ".py":
            raise InputError(f"{path} is a Python file; name the function in it that gives the data: {path}:FUNCTION")
        return _one_file(path, specs, reading)
    return _loader(text, specs, reading)


def _one_file(path: Path, specs: tuple[InputSpec, ...], reading: Reading) -> Source:
    from hqc.data.images import SUFFIXES

    if path.suffix.lower() in SUFFIXES:
        return FileFolder([path], specs, reading)
    return ArrayFile(path, specs, reading)


def _by_name(places: Mapping[str, PathLike], specs: tuple[InputSpec, ...], reading: Reading) -> Source:
    names = [spec.name for spec in specs]
    for name in places:
        if name not in names:
            raise InputError(f"the model has no input {name}; it takes {', '.join(names)}{suggest(name, names)}")
    missing = [name for name in names if name not in places]
    if missing:
        raise InputError(f"there is data for {', '.join(places)}, and none for the input {missing[0]}")
    sources = {spec.name: _source(places[spec.name], (spec,), reading) for spec in specs}
    return next(iter(sources.values())) if len(sources) == 1 else Together(sources, specs)


def _loader(text: str, specs: tuple[InputSpec, ...], reading: Reading) -> Source:
    found, _, place = find_object(text, "the loader")
    name = text.rpartition(":")[2]
    if callable(found):
        return Loader(
            lambda: _checked(guarded(found, place, f"{name}() in {place} failed"), text, place), specs, text, _layout(reading)
        )
    return Loader(lambda: _checked(found, text, place), specs, text, _layout(reading))


def _layout(reading: Reading) -> str | None:
    return reading.preprocessing.layout


def _checked(found: Any, text: str, place: str) -> Iterable[Any]:
    """`found` as an iterable whose own faults are told as the user's."""
    if hasattr(found, "__getitem__") and hasattr(found, "__len__") and not hasattr(found, "__iter__"):
        length = len(found)  # a Dataset: numbered samples
        return _guarded_iteration((found[index] for index in range(length)), text, place)
    if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
        raise InputError(f"{text} gives a {type(found).__name__}, not an iterable of batches such as a DataLoader or a list")
    if isinstance(found, Mapping) or hasattr(found, "shape"):
        return [found]
    return _guarded_iteration(found, text, place)


def _guarded_iteration(items: Iterable[Any], text: str, place: str) -> Iterator[Any]:
    end = object()
    iterator = iter(items)
    advance: Callable[[], Any] = lambda: next(iterator, end)  # noqa: E731
    while (item := guarded(advance, place, f"{text} failed")) is not end:
        yield item
