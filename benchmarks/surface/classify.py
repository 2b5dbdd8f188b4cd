"""What becomes of one sample: it passes, is refused in one sentence, or fails in a way that no user should see."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

import hqc
from benchmarks.surface.samples import Sample
from hqc.errors import HqcError

PASS, REFUSED, RAW, WRONG, SKIPPED = "pass", "refused", "raw error", "wrong result", "eager refuses"


class TooSlow(Exception):  # noqa: N818 (a signal)
    """The sample's time is up."""


@dataclass(frozen=True)
class Outcome:
    """`kind`: one of the constants above; `step`: where it ended; `text`: the sentence, or the error with its place."""

    name: str
    kind: str
    step: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.kind:13} {self.name:45} {self.step:9} {self.text}"


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def classify(sample: Sample, march: str = "bayes", seconds: float = 20.0) -> Outcome:
    """Compile (calibrated on the sample), simulate and export one sample."""
    logging.getLogger("hqc").setLevel(logging.ERROR)
    step = "eager"
    try:
        with warnings.catch_warnings(), torch.no_grad(), time_limit(seconds):
            warnings.simplefilter("ignore")
            model, inputs = sample.make()
            expected = model(*(tensor.clone() for tensor in inputs))
            if not all(isinstance(leaf, torch.Tensor) for leaf in _results(expected)) or not _results(expected):
                return Outcome(sample.name, SKIPPED, step, "returns no tensors")
            step = "compile"
            compiled = hqc.compile(model, inputs, march=march, calibration_data=[inputs])
            step = "simulate"
            got = compiled.simulate(*inputs)
            wrong = _difference(got, expected)
            if wrong:
                return Outcome(sample.name, WRONG, step, wrong)
            step = "export"
            with tempfile.TemporaryDirectory() as folder:
                compiled.export(Path(folder) / "model.onnx")
    except HqcError as error:
        text = str(error)
        return Outcome(sample.name, REFUSED if "\n" not in text.strip() else RAW, step, text)
    except Exception as error:
        if step == "eager":
            return Outcome(sample.name, SKIPPED, step, type(error).__name__)
        place = traceback.extract_tb(error.__traceback__)[-1]
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        return Outcome(sample.name, RAW, step, f"{type(error).__name__}: {first} ({Path(place.filename).name}:{place.lineno})")
    return Outcome(sample.name, PASS)


def _results(structure: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(structure) if leaf is not None]


def _difference(got: Any, expected: Any) -> str:
    """What is wrong with the simulator's results, "" when nothing is: form, shapes, and (loosely) numbers."""
    results, references = _results(got), _results(expected)
    if len(results) != len(references):
        return f"{len(results)} results for {len(references)}"
    for index, (result, reference) in enumerate(zip(results, references, strict=True)):
        reference = reference.float() if reference.dtype is torch.bfloat16 else reference  # NumPy has none
        array, wanted = np.asarray(result), reference.detach().numpy()
        if array.shape != wanted.shape:
            return f"result {index} has shape {array.shape}, eager's has {wanted.shape}"
        if wanted.dtype.kind != "f" or not wanted.size:
            continue
        finite = np.isfinite(wanted) & np.isfinite(array)
        spread = float(np.abs(wanted[finite]).max()) if finite.any() else 0.0
        error = float(np.abs(array[finite].astype(np.float64) - wanted[finite]).mean()) if finite.any() else 0.0
        if error > 0.1 * spread + 1e-6:
            return f"result {index} is off by {error:.3g} on average, of a range of {spread:.3g}"
    return ""
