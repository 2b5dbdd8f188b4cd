"""Where samples come from: each source yields chunks of samples, without holding more of them than it must."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hqc.array_files import ONLY
from hqc.data import arrays as array_files
from hqc.data import images
from hqc.data.arrays import RAW, read_arrays
from hqc.data.inputs import Array, InputSpec, as_dtype, as_samples
from hqc.data.items import by_input, read_item
from hqc.data.preprocessing import Preprocessing
from hqc.errors import InputError


@dataclass(frozen=True)
class Chunk:
    """Samples that come together: `[samples, ...]` by input name, and labels (one a sample) where there are some."""

    inputs: dict[str, Array]
    labels: Any = None

    @property
    def size(self) -> int:
        return len(next(iter(self.inputs.values())))


class Source(Protocol):
    """`count`: samples, None where nobody knows before the end. `what`: for people. `preprocessing`: by input, of pictures."""

    what: str
    count: int | None
    preprocessing: dict[str, Preprocessing]

    def chunks(self) -> Iterator[Chunk]:
        """All samples, in order; may be called again."""
        ...


@dataclass(frozen=True)
class Reading:
    """How files are read: what to do with pictures, and what raw files hold."""

    preprocessing: Preprocessing
    given: bool  # the user named some preprocessing, so it holds for arrays too
    shape: tuple[int, ...] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.shape is not None and any(size < 1 for size in self.shape):
            raise InputError(f"shape is that of one sample in a raw file, of sizes from 1 on, got {list(self.shape)}")

    def normalizes(self, spec: InputSpec) -> bool:
        """Mean and scale hold for arrays too, where the user gave some and the input is a picture."""
        floats = spec.dtype.kind == "f" and spec.channel_axis is not None
        return floats and self.given and self.preprocessing.norm_type != "no_preprocess"


class ArrayFile:
    """One file with all samples: .npy, .npz, .pt, .safetensors, or raw samples one after the other."""

    def __init__(self, path: Path, specs: Sequence[InputSpec], reading: Reading) -> None:
        self.what = str(path)
        self.preprocessing: dict[str, Preprocessing] = {}
        named = read_arrays(path, shape=reading.shape, dtype=reading.dtype, spec=specs[0])
        found, labels = by_input(named, specs, str(path))
        self._inputs, self.preprocessing = {}, {}
        for spec in specs:
            where = str(path) if ONLY in named else f"{path}: {spec.name}"
            self._inputs[spec.name], used = prepared_array(found[spec.name], spec, reading, where)
            if used is not None:
                self.preprocessing[spec.name] = used
        sizes = {name: len(array) for name, array in self._inputs.items()}
        self.count: int | None = max(sizes.values())
        for name, size in sizes.items():
            if size not in (1, self.count) or (size != self.count and next(s for s in specs if s.name == name).batched):
                shown = ", ".join(map(str, sorted(set(sizes.values()))))
                raise InputError(f"{path}: its arrays have different numbers of samples ({shown})")
        self._labels = labels if labels is not None and np.ndim(labels) and len(labels) == self.count else None

    def chunks(self) -> Iterator[Chunk]:
        """The whole file."""
        inputs = {name: np.broadcast_to(a, (self.count or 1, *a.shape[1:])) for name, a in self._inputs.items()}
        yield Chunk(inputs, self._labels)


class FileFolder:
    """One file a sample (or several samples): pictures, arrays or raw data, of a folder in order of their names, or of a list.

    Pictures in sub-folders are labelled by them, in order of the sub-folders' names.
    """

    def __init__(self, folder: Path | Sequence[Path], specs: Sequence[InputSpec], reading: Reading) -> None:
        found = _files_in(folder) if isinstance(folder, Path) else list(folder)
        alone = found[0] if not isinstance(folder, Path) and len(found) == 1 else None
        if not isinstance(folder, Path):
            folder = Path(os.path.commonpath([path.parent for path in found]))
        pictures = [path for path in found if path.suffix.lower() in images.SUFFIXES]
        data = [path for path in found if path.suffix.lower() in array_files.SUFFIXES]
        self.files = pictures or data
        if not self.files:
            kinds = ", ".join(sorted({path.suffix or path.name for path in found})[:5])
            raise InputError(
                f"{folder} holds no pictures ({', '.join(images.SUFFIXES[:4])}, ...) and no .npy, .npz, .bin, .pt or .safetensors files"
                f"{f'; it holds {kinds}' if kinds else '; it is empty'}"
            )
        self._specs, self._reading = tuple(specs), reading
        self.preprocessing: dict[str, Preprocessing] = {}
        if len(specs) > 1 and (pictures or self.files[0].suffix.lower() not in array_files.CONTAINERS):
            names = ", ".join(spec.name for spec in specs)
            raise InputError(
                f"the model takes {len(specs)} inputs ({names}); give {folder} a sub-folder for each, called like it"
            )
        self._spec = spec = specs[0]
        kind = "pictures" if pictures else "arrays"
        if pictures or self._raw_pictures():
            kind = "pictures" if pictures else f"raw pictures ({self._runtime()})"
            self.preprocessing[spec.name] = self._picture_preprocessing()
        elif reading.normalizes(spec):
            self.preprocessing[spec.name] = reading.preprocessing
        self.what = f"{kind} of {alone or folder}"
        self.count: int | None = len(self.files) if pictures else None
        classes = sorted({path.relative_to(folder).parts[0] for path in self.files if path.parent != folder})
        labelled = pictures and classes and all(path.parent != folder for path in self.files)
        self._labels = [classes.index(p.relative_to(folder).parts[0]) for p in self.files] if labelled else None

    def _runtime(self) -> str:
        return images.RAW_FORMATS.get(self.files[0].suffix.lower(), self._reading.preprocessing.runtime)

    def _raw_pictures(self) -> bool:
        """Raw files that hold pixels as the board is given them."""
        suffix, given = self.files[0].suffix.lower(), self._reading
        if suffix not in RAW or given.shape is not None or given.dtype not in (None, "uint8"):
            return False
        return suffix in images.RAW_FORMATS or given.preprocessing.input_type_rt is not None

    def _picture_preprocessing(self) -> Preprocessing:
        images.image_size(self._spec, self.files[0])
        found = self._reading.preprocessing
        if self._raw_pictures() and found.input_type_rt is None:
            found = replace(found, input_type_rt=self._runtime())  # type: ignore[arg-type]
        return found.for_input(self._spec)

    def chunks(self) -> Iterator[Chunk]:
        """File by file."""
        for index, path in enumerate(self.files):
            labels = None if self._labels is None else np.array([self._labels[index]])
            if path.suffix.lower() in images.SUFFIXES or self._raw_pictures():
                yield Chunk({self._spec.name: self._read_pictures(path)}, labels)
            else:
                yield from ArrayFile(path, self._specs, self._reading).chunks()

    def _read_pictures(self, path: Path) -> Array:
        spec, preprocessing = self._spec, self.preprocessing[self._spec.name]
        if path.suffix.lower() in images.SUFFIXES:
            return images.picture_sample(path, spec, preprocessing)[None]
        size = images.raw_bytes(spec, preprocessing, str(path))
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(data) or len(data) % size:
            raise InputError(f"{path} has {len(data):,} bytes; {preprocessing.runtime} of the model's size has {size:,}")
        return np.stack([images.raw_sample(each, spec, preprocessing, str(path)) for each in data.reshape(-1, size)])


def _files_in(folder: Path) -> list[Path]:
    """Files of a folder and its sub-folders, sorted; hidden ones left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


class Together:
    """Several inputs, each with a source of its own, sample by sample; the one sample of an input without a batch serves all."""

    def __init__(self, sources: dict[str, Source], specs: Sequence[InputSpec]) -> None:
        self._sources = sources
        self._fixed = {spec.name for spec in specs if not spec.batched and sources[spec.name].count == 1}
        varying = {name: source for name, source in sources.items() if name not in self._fixed}
        counts = {name: source.count for name, source in varying.items() if source.count is not None}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"the inputs have different numbers of samples: {shown}")
        self.count = next(iter(counts.values()), None)
        self.what = ", ".join(f"{name}: {source.what}" for name, source in sources.items())
        self.preprocessing = {name: each for source in sources.values() for name, each in source.preprocessing.items()}

    def chunks(self) -> Iterator[Chunk]:
        """One sample a chunk; `InputError` where one input ends before the others."""
        streams = {
            name: itertools.repeat(next(source.chunks())) if name in self._fixed else _single(source.chunks())
            for name, source in self._sources.items()
        }
        while True:
            found = {name: next(stream, None) for name, stream in streams.items()}
            ended = [name for name, chunk in found.items() if chunk is None]
            if len(ended) == len(found):
                return
            if ended:
                raise InputError(f"input {ended[0]} has fewer samples than {next(name for name in found if name not in ended)}")
            chunks = [chunk for chunk in found.values() if chunk is not None]
            inputs = {name: array for chunk in chunks for name, array in chunk.inputs.items()}
            yield Chunk(inputs, next((chunk.labels for chunk in chunks if chunk.labels is not None), None))


def _single(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        for i in range(chunk.size):
            labels = None if chunk.labels is None else chunk.labels[i : i + 1]
            yield Chunk({name: array[i : i + 1] for name, array in chunk.inputs.items()}, labels)


class Loader:
    """Batches or samples from the user's Python: `make()` gives an iterable each time it is called."""

    def __init__(self, make: Callable[[], Iterable[Any]], specs: Sequence[InputSpec], what: str, layout: str | None) -> None:
        self.what, self._make, self._specs, self._layout = what, make, specs, layout
        self.count: int | None = None
        self.preprocessing: dict[str, Preprocessing] = {}

    def chunks(self) -> Iterator[Chunk]:
        """What it yields, item by item."""
        for number, item in enumerate(self._make(), start=1):
            inputs, labels = read_item(item, self._specs, f"item {number} of {self.what}", self._layout)
            size = len(next(iter(inputs.values())))
            labels = (
                None
                if labels is None
                else np.atleast_1d(array_files.as_array(labels, f"the labels of item {number} of {self.what}"))
            )
            yield Chunk(inputs, labels if labels is not None and len(labels) == size else None)


def prepared_array(array: Array, spec: InputSpec, reading: Reading, where: str) -> tuple[Array, Preprocessing | None]:
    """An array of a file as samples of the input; mean and scale are applied where the user gave some, which is returned then."""
    found = as_samples(array, spec, where, layout=reading.preprocessing.layout)
    if not reading.normalizes(spec):
        return found, None
    return as_dtype(reading.preprocessing.normalize(found, (spec.channel_axis or 0) + 1), spec, where), reading.preprocessing
