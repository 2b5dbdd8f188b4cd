"""Data as users have it: every kind of place gives the same samples, every fault is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hqc.data import DataSpec, InputSpec, Preprocessing, load_samples
from hqc.errors import InputError

IMAGE = InputSpec("image", (1, 3, 4, 6), np.dtype(np.float32))
IDS = InputSpec("ids", (1, 5), np.dtype(np.int64))
GRID = InputSpec("grid", (7, 2), np.dtype(np.float32), batched=False)
RANDOM = np.random.default_rng(0)
FIVE = RANDOM.random((5, 3, 4, 6), np.float32)
TOKENS = RANDOM.integers(0, 9, (5, 5))
LOADER = """
import torch
X = torch.arange(5 * 72, dtype=torch.float32).reshape(5, 3, 4, 6)
def batches(): return [(X[:2], torch.tensor([0, 1])), (X[2:], torch.tensor([2, 3, 4]))]
def generator():
    for x in X: yield x
def dicts(): return [{"image": x, "label": 7} for x in X.numpy()]
class Numbered:
    def __len__(self): return 5
    def __getitem__(self, index): return X[index], index
dataset = Numbered()
loader = torch.utils.data.DataLoader(dataset, batch_size=2)
whole = X
def number(): return 3
def faulty():
    yield X[:1]
    raise KeyError("no file")
def wrong(): return [X[:, :2]]
def names(): return [{"img": X}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    return tmp_path


def loaded(place: Any, *specs: InputSpec, size: int | None = None, **options: Any) -> dict[str, np.ndarray]:
    """All samples, batch after batch, by input name."""
    samples = load_samples(place, specs or (IMAGE,), **options)
    batches = list(samples.batches(size))
    assert samples.batch_count(size) in (None, len(batches))
    return {spec.name: np.concatenate([batch[spec.name] for batch in batches]) for spec in samples.inputs if spec.batched}


def write(kind: str, folder: Path) -> Any:
    """`FIVE` in one way that users have it."""
    match kind:
        case "npy":
            np.save("five.npy", FIVE)
            return "five.npy"
        case "npy of batches":
            np.save("five.npy", FIVE[:, None])
            return Path("five.npy")
        case "npy in doubles":
            np.save("five.npy", FIVE.astype(np.float64))
            return "five.npy"
        case "npz":
            np.savez("five.npz", image=FIVE, other=np.zeros(3))
            return "five.npz"
        case "npz without a name":
            np.savez("five.npz", FIVE)
            return "five.npz"
        case "raw":
            FIVE.tofile("five.bin")
            return "five.bin"
        case "tensor":
            torch.save(torch.from_numpy(FIVE), "five.pt")
            return "five.pt"
        case "dict of tensors":
            torch.save({"image": torch.from_numpy(FIVE), "labels": torch.arange(5)}, "five.pth")
            return "five.pth"
        case "safetensors":
            save_file({"image": FIVE}, "five.safetensors")
            return "five.safetensors"
        case "by name":
            np.save("five.npy", FIVE)
            return {"image": "five.npy"}
    (folder / "many" / "image").mkdir(parents=True)
    where = folder / "many" / ("image" if "input" in kind else "")
    for index, sample in enumerate(FIVE):
        if "npy" in kind:
            np.save(where / f"{index}.npy", sample[None] if "batch" in kind else sample)
        elif "npz" in kind:
            np.savez(where / f"{index}.npz", image=sample)
        else:
            sample.tofile(where / f"{index}.bin")
    (folder / "many" / ".hidden.npy").write_text("no array")
    (folder / "many" / "read me.txt").write_text("notes")
    return [where / f"{index}.npy" for index in range(5)] if "list" in kind else "many"


KINDS = [
    "npy", "npy of batches", "npy in doubles", "npz", "npz without a name", "raw", "tensor", "dict of tensors", "safetensors", "by name",
    "folder of npy", "folder of npy, batch of one", "folder of npz", "folder of raw", "folder per input of npy", "list of npy",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_places_give_the_same_samples(kind: str, folder: Path) -> None:
    place = write(kind, folder)
    for size in (1, 2, 5, 8):
        found = loaded(place, size=size)["image"]
        assert found.dtype == np.float32 and np.array_equal(found, FIVE)
    assert np.array_equal(loaded(place, samples=3)["image"], FIVE[:3])
    assert np.array_equal(load_samples(DataSpec(place, samples=2), [IMAGE]).first(9)["image"], FIVE[:2])


@pytest.mark.parametrize("name", ["batches", "generator", "dicts", "dataset", "loader", "whole"])
@pytest.mark.parametrize("place", ["loader_file.py", "loader_file"])
def test_loaders_of_the_user(name: str, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "loader_file", raising=False)
    (folder / "loader_file.py").write_text(LOADER)
    found = loaded(f"{place}:{name}", size=2)["image"]
    assert np.array_equal(found, np.arange(5 * 72, dtype=np.float32).reshape(5, 3, 4, 6))
    samples = load_samples(f"{place}:{name}", [IMAGE])
    assert samples.count is None and [len(b["image"]) for b in samples.batches(2)] == [2, 2, 1]
    labels = [label for _, label in samples.labelled(5)]
    wanted = {"batches": [0, 1, 2, 3, 4], "dataset": [0, 1, 2, 3, 4], "loader": [0, 1, 2, 3, 4], "dicts": [7] * 5}.get(name)
    assert (labels[0] is None) if wanted is None else labels[0].tolist() == wanted


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("number", "loader_file.py:number gives a int, not an iterable of batches"),
        ("faulty", r"loader_file.py:faulty failed: loader_file.py:\d+: KeyError: 'no file'"),
        (
            "wrong",
            r"item 1 of .* has shape \[5, 2, 4, 6\], which does not fit the model: input image takes \[3, 4, 6\] per sample",
        ),
        ("names", "item 1 of .* lacks the input image; it holds img"),
        ("nothing", "loader_file.py has no nothing"),
    ],
)
def test_faults_of_loaders_are_the_users(name: str, sentence: str, folder: Path) -> None:
    (folder / "loader_file.py").write_text(LOADER)
    with pytest.raises(InputError, match=sentence):
        loaded(f"loader_file.py:{name}")


def test_several_inputs_by_name_from_one_file_and_from_several(folder: Path) -> None:
    np.savez("all.npz", grid=np.ones((7, 2)), ids=TOKENS.astype(np.int32), image=FIVE, label=np.arange(5))
    np.save("image.npy", FIVE)
    np.save("ids.npy", TOKENS)
    np.save("grid.npy", np.ones((7, 2)))
    for place in ("all.npz", {"image": "image.npy", "ids": "ids.npy", "grid": "grid.npy"}):
        samples = load_samples(place, (IMAGE, IDS, GRID))
        first = samples.first(5) if isinstance(place, str) else next(samples.batches(5))
        assert list(first) == ["image", "ids", "grid"] and first["ids"].dtype == np.int64
        assert np.array_equal(first["ids"], TOKENS) and np.array_equal(first["grid"], np.ones((7, 2)))
    assert next(load_samples("all.npz", (IMAGE, IDS, GRID)).labelled(5))[1].tolist() == [0, 1, 2, 3, 4]
    for name in ("image", "ids", "grid"):
        (folder / "parts" / name).mkdir(parents=True)
        for index in range(5):
            one = {"image": FIVE[index], "ids": TOKENS[index], "grid": np.ones((7, 2))}[name]
            np.save(folder / "parts" / name / f"{index}.npy", one)
    assert np.array_equal(next(load_samples("parts", (IMAGE, IDS, GRID)).batches(5))["ids"], TOKENS)


def test_layouts_shapes_and_dtypes_of_files(folder: Path) -> None:
    np.save("nhwc.npy", FIVE.transpose(0, 2, 3, 1))
    assert np.array_equal(loaded("nhwc.npy", preprocessing=Preprocessing(layout="NHWC"))["image"], FIVE)
    with pytest.raises(InputError, match=r"takes \[3, 4, 6\] per sample; the layout NHWC would fit \(--layout NHWC\)"):
        loaded("nhwc.npy")
    last = InputSpec("image", (1, 4, 6, 3), np.dtype(np.float32))
    assert np.array_equal(loaded("nhwc.npy", last, preprocessing=Preprocessing(layout="NHWC"))["image"], np.load("nhwc.npy"))
    pixels = RANDOM.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    pixels.tofile("pixels.bin")
    read = {"shape": (4, 6, 3), "dtype": "uint8", "preprocessing": Preprocessing(layout="NHWC", std=(255,), mean=(1, 2, 3))}
    want = (pixels.astype(np.float32) - np.array([1, 2, 3], np.float32)) * np.float32(1 / 255)
    assert np.allclose(loaded("pixels.bin", **read)["image"], want.transpose(0, 3, 1, 2), atol=1e-7)


@pytest.mark.parametrize(
    ("write_it", "sentence"),
    [
        (lambda: np.save("d.npy", np.float32(3)), "is a single number; the first axis must be the samples"),
        (lambda: np.save("d.npy", np.array(["a"])), "holds <U1, not numbers"),
        (lambda: np.save("d.npy", FIVE[:0]), "holds no samples"),
        (lambda: np.save("d.npy", np.array([{}], dtype=object)), "it holds Python objects"),
        (lambda: np.save("d.npy", FIVE[:, :2]), r"has shape \[5, 2, 4, 6\], which does not fit the model"),
        (lambda: Path("d.npy").write_bytes(b""), "cannot be read as .npy"),
        (lambda: np.savez("d.npz", a=FIVE, b=FIVE), r"holds 2 arrays \(a, b\), the model takes 1 input \(image\)"),
        (lambda: Path("d.bin").write_bytes(b"abc"), "has 3 bytes, which is not a whole number of samples of 288 bytes"),
        (lambda: Path("d.pt").write_text("hello"), "cannot be read as tensors"),
        (lambda: torch.save({"a": "text"}, "d.pt"), "holds a dict, not a tensor or a dict or list of tensors"),
        (lambda: torch.save(torch.nn.ReLU(), "d.pt"), "cannot be read as tensors"),
        (lambda: Path("d.safetensors").write_text("hello"), "cannot be read as .safetensors"),
        (lambda: Path("d.py").write_text(""), "is a Python file; name the function in it that gives the data"),
        (lambda: Path("d").mkdir(), "holds no pictures .* it is empty"),
        (lambda: None, "there is no file d.none and no folder of that name"),
    ],
)
def test_files_that_cannot_be_used(write_it: Any, sentence: str, folder: Path) -> None:
    write_it()
    place = next((path.name for path in folder.iterdir()), "d.none")
    with pytest.raises(InputError, match=sentence) as caught:
        loaded(place)
    assert "\n" not in str(caught.value)


def test_several_inputs_that_do_not_fit_together(folder: Path) -> None:
    np.savez("few.npz", image=FIVE, ids=TOKENS[:3])
    np.savez("names.npz", image=FIVE, id=TOKENS)
    np.savez("reals.npz", image=FIVE, ids=TOKENS.astype(np.float32))
    np.save("image.npy", FIVE)
    np.save("ids.npy", TOKENS[:4])
    (folder / "mixed").mkdir()
    np.save("mixed/0.npy", FIVE[0])
    for place, sentence in (
        ("few.npz", r"its arrays have different numbers of samples \(3, 5\)"),
        ("names.npz", "lacks the input ids; it holds image, id; did you mean id"),
        ("reals.npz", "ids holds float32; input ids takes int64"),
        ({"image": "image.npy", "ids": "ids.npy"}, "the inputs have different numbers of samples: image 5, ids 4"),
        ({"image": "image.npy"}, "there is data for image, and none for the input ids"),
        ({"img": "image.npy", "ids": "ids.npy"}, "the model has no input img; it takes .*; did you mean image"),
        ("mixed", "the model takes 2 inputs .*; give mixed a sub-folder for each"),
    ):
        with pytest.raises(InputError, match=sentence):
            loaded(place, IMAGE, IDS)


def test_an_input_without_a_batch_must_be_the_same_in_a_batch(folder: Path) -> None:
    np.savez("grids.npz", image=FIVE, grid=np.arange(70.0).reshape(5, 7, 2))
    samples = load_samples("grids.npz", (IMAGE, GRID))
    assert [batch["grid"].shape for batch in samples.batches(1)] == [(7, 2)] * 5
    with pytest.raises(InputError, match="input grid has no batch axis and differs"):
        next(samples.batches(2))
