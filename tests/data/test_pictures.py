"""Pictures: decoding, sizes, camera formats, mean and scale, and what the yaml for hb_mapper says of them."""

from __future__ import annotations

import builtins
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import hqc
from hqc.data import InputSpec, Preprocessing, load_samples
from hqc.data.colors import nv12_to_yuv444, rgb_to_gray, rgb_to_yuv444, yuv444_to_nv12, yuv444_to_rgb
from hqc.errors import InputError

H, W = 8, 12
RGB = InputSpec("image", (1, 3, H, W), np.dtype(np.float32))
LAST = InputSpec("image", (1, H, W, 3), np.dtype(np.float32))
GREY = InputSpec("image", (1, 1, H, W), np.dtype(np.float32))
PIXELS = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(H)[:, None] * 20 + 20, np.arange(W) * 15 + 30, np.full((H, W), 90)), 2)
SMOOTH = SMOOTH.astype(np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.fromarray(PIXELS).save("photos/a.png")
    return tmp_path


def read(spec: InputSpec = RGB, place: str = "photos", **options: Any) -> np.ndarray:
    samples = load_samples(place, [spec], preprocessing=Preprocessing(**options) if options else None)
    return next(samples.batches(1))["image"][0]


def test_a_picture_as_it_is() -> None:
    assert np.array_equal(read(), PIXELS.transpose(2, 0, 1).astype(np.float32))
    assert np.array_equal(read(order="bgr"), PIXELS[..., ::-1].transpose(2, 0, 1))
    assert np.array_equal(read(LAST), PIXELS)
    assert np.array_equal(read(GREY)[0], rgb_to_gray(PIXELS)[..., 0])
    assert np.array_equal(read(replace(RGB, dtype=np.dtype(np.uint8))), PIXELS.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
        {"mean": (123.675, 116.28, 103.53), "scale": (1 / 58.395, 1 / 57.12, 1 / 57.375)},
    ],
)
def test_three_spellings_of_one_normalization(options: dict[str, Any]) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    want = ((PIXELS / 255 - mean) / std).transpose(2, 0, 1)
    assert np.allclose(read(**options), want, atol=1e-5)


def test_the_range_of_the_pixels_is_said_or_seen() -> None:
    assert np.allclose(read(value_range=1), PIXELS.transpose(2, 0, 1) / 255)
    assert np.allclose(read(mean=(0.5,), std=(0.5,)), PIXELS.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert np.allclose(read(mean=(0.5,), std=(0.5,), value_range=255), (PIXELS.transpose(2, 0, 1) - 0.5) / 0.5, atol=1e-4)
    assert np.allclose(read(mean=(128,), scale=(1 / 128,)), (PIXELS.transpose(2, 0, 1) - 128.0) / 128)


@pytest.mark.parametrize(("size", "how"), [((2 * H, 2 * W), "stretch"), ((40, 20), "stretch"), ((H, W), "letterbox")])
def test_stretch_and_what_fits_already(size: tuple[int, int], how: str) -> None:
    Image.fromarray(PIXELS).resize(size[::-1], Image.Resampling.NEAREST).save("photos/a.png")
    assert read(resize=how).shape == (3, H, W)
    if size == (H, W):
        assert np.array_equal(read(resize=how), PIXELS.transpose(2, 0, 1))


def test_crop_and_letterbox_keep_the_aspect() -> None:
    tall = np.zeros((32, 12, 3), np.uint8)
    tall[12:20] = 200
    Image.fromarray(tall).save("photos/a.png")
    assert (read(resize="crop") == 200).all()
    boxed = read(resize="letterbox:50")
    assert (
        (boxed[:, :, 0] == 50).all()
        and (boxed[:, :, -1] == 50).all()
        and (boxed[:, 4, 5:7] > 120).all()
        and (boxed[:, 0, 5:7] == 0).all()
    )
    assert (read(resize="letterbox")[:, :, 0] == 114).all()
    assert (read(resize="24")[:, 2:6] == 200).all()
    with pytest.raises(InputError, match=r"--resize 4 makes photos/a.png smaller than the 8x12 that the model takes"):
        read(resize="4")
    with pytest.raises(InputError, match=r"has 32x12 pixels, the model takes 8x12; --resize says how"):
        read(resize="none")


def test_yuv_is_bt601() -> None:
    red, white, black = np.array([[[255, 0, 0]]], np.uint8), np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)
    assert rgb_to_yuv444(red).tolist() == [[[76, 85, 255]]] and rgb_to_yuv444(red, video=True).tolist() == [[[81, 90, 240]]]
    assert rgb_to_yuv444(white, video=True).tolist() == [[[235, 128, 128]]]
    assert rgb_to_yuv444(black, video=True).tolist() == [[[16, 128, 128]]]
    for video in (False, True):
        back = yuv444_to_rgb(rgb_to_yuv444(PIXELS, video=video), video=video)
        assert np.abs(back.astype(int) - PIXELS).max() <= 3


def test_nv12_halves_the_chroma() -> None:
    yuv = rgb_to_yuv444(SMOOTH)
    nv12 = yuv444_to_nv12(yuv)
    assert nv12.shape == (H * 3 // 2, W) and np.array_equal(nv12[:H], yuv[..., 0])
    blocks = yuv[:2, :2, 1:].astype(float).mean(axis=(0, 1))
    assert nv12[H, :2].tolist() == [int(np.floor(value + 0.5)) for value in blocks]
    assert np.array_equal(yuv444_to_nv12(nv12_to_yuv444(nv12)), nv12)


@pytest.mark.parametrize("runtime", ["rgb", "bgr", "yuv444", "nv12"])
@pytest.mark.parametrize("order", ["rgb", "bgr", "yuv444"])
def test_raw_files_of_the_board_and_pictures_through_its_format_are_the_same(runtime: Any, order: Any, folder: Path) -> None:
    yuv = rgb_to_yuv444(SMOOTH)
    raw = {"rgb": SMOOTH, "bgr": SMOOTH[..., ::-1], "yuv444": yuv, "nv12": yuv444_to_nv12(yuv)}[runtime]
    (folder / "raw").mkdir()
    (folder / "raw" / "0.bin").write_bytes(np.ascontiguousarray(raw).tobytes() * 2)
    Image.fromarray(SMOOTH).save("photos/a.png")
    want = read(order=order, input_type_rt=runtime)
    assert np.array_equal(read(order=order, input_type_rt=runtime, place="raw"), want)
    near = yuv if order == "yuv444" else SMOOTH[..., ::-1] if order == "bgr" else SMOOTH
    assert np.abs(want.transpose(1, 2, 0) - near).max() <= (14 if runtime == "nv12" else 3)
    samples = load_samples("raw", [RGB], preprocessing=Preprocessing(order=order, input_type_rt=runtime))
    assert len(list(samples.batches(1))) == 2


def test_the_suffix_says_nv12(folder: Path) -> None:
    (folder / "raw").mkdir()
    (folder / "raw" / "0.nv12").write_bytes(yuv444_to_nv12(rgb_to_yuv444(SMOOTH)).tobytes())
    samples = load_samples("raw", [RGB])
    assert samples.preprocessing["image"].runtime == "nv12" and "raw pictures (nv12) of raw (RGB by way of nv12" in samples.what
    (folder / "raw" / "0.nv12").write_bytes(b"123")
    with pytest.raises(InputError, match=r"has 3 bytes; nv12 of the model's size has 144"):
        next(samples.batches())


def test_sub_folders_are_labels(folder: Path) -> None:
    for name in ("dog", "cat", "owl"):
        (folder / "set" / name).mkdir(parents=True)
        Image.fromarray(PIXELS).save(f"set/{name}/1.jpg")
    samples = load_samples("set", [RGB])
    assert samples.count == 3 and samples.what == "pictures of set (RGB, pixels from 0 to 255 as they are)"
    assert [label.tolist() for _, label in samples.labelled(2)] == [[0, 1], [2]]
    assert next(load_samples("photos", [RGB]).labelled())[1] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"std": (0.5,), "scale": (2,)}, "not both"),
        ({"std": (0, 1, 1)}, "std must not be zero"),
        ({"mean": ("a",)}, "mean must be numbers such as 0.485, got 'a'"),
        ({"order": "rbg"}, "order must be one of rgb, bgr, gray, yuv444, got 'rbg'"),
        (
            {"resize": "fit"},
            "resize is stretch, crop, letterbox, none, letterbox:GREY or the length of the shorter side, got fit",
        ),
        ({"resize": "letterbox:300"}, "resize is"),
        ({"value_range": 2}, "value_range is 1 or 255"),
        ({"order": "gray", "input_type_rt": "nv12"}, "a model of gray pictures cannot be given nv12"),
    ],
)
def test_preprocessing_that_makes_no_sense(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Preprocessing(**options)


def test_what_cannot_be_read_or_fitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="2 values of mean, std or scale do not fit 3 channels"):
        read(mean=(1, 2))
    with pytest.raises(InputError, match=r"is a picture; input image takes \[10\] per sample"):
        read(InputSpec("image", (1, 10), np.dtype(np.float32)))
    with pytest.raises(InputError, match="input image takes 1 channel, bgr pictures have 3"):
        read(GREY, order="bgr")
    with pytest.raises(InputError, match="nv12 needs an even height and width, the model takes 7x12"):
        read(InputSpec("image", (1, 3, 7, 12), np.dtype(np.float32)), input_type_rt="nv12")
    (folder / "photos" / "b.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"photos/b.jpg cannot be read as a picture"):
        list(load_samples("photos", [RGB]).batches())
    importing = builtins.__import__

    def without_pillow(name: str, *args: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return importing(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(
        InputError, match=r"reading pictures such as photos/a.png needs Pillow; install it with: pip install pillow"
    ):
        read()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.conv(image), dim=1)


def test_the_yaml_says_what_calibration_did(folder: Path) -> None:
    Image.fromarray(PIXELS).save("photos/b.png")
    preprocessing = Preprocessing(
        mean=(123.675, 116.28, 103.53), scale=(0.017, 0.0175, 0.0174), input_type_rt="nv12", order="bgr"
    )
    compiled = hqc.compile(
        Net(), torch.zeros(1, 3, H, W), march="bayes", calibration_data="photos", preprocessing=preprocessing,
        hybrid_dict={"bpu": {"op": [("softmax", "int16")]}},
    )  # fmt: skip
    assert str(compiled.calibration).startswith("2 samples from pictures of photos (BGR by way of nv12, (pixel - [123.675, ")
    assert np.array_equal(
        compiled.samples[0]["image"][0],
        read(**{each.name: getattr(preprocessing, each.name) for each in fields(preprocessing)}),
    )
    compiled.export("a.onnx")
    compiled.export("b.onnx")
    found = yaml.safe_load((folder / "a.yaml").read_text())
    inputs = found["input_parameters"]
    assert inputs["input_type_rt"] == "nv12" and inputs["input_type_train"] == "bgr" and inputs["input_layout_train"] == "NCHW"
    assert inputs["norm_type"] == "data_mean_and_scale" and inputs["mean_value"] == "123.675 116.28 103.53"
    assert inputs["scale_value"] == "0.017 0.0175 0.0174"
    assert found["calibration_parameters"]["run_on_bpu"] == "softmax/Transpose;softmax/Softmax;softmax"
    wide = {"ON": "BPU", "InputType": "int16", "OutputType": "int16"}
    assert found["model_parameters"]["node_info"]["softmax/Softmax"] == wide
    assert yaml.safe_load((folder / "b.yaml").read_text())["model_parameters"]["onnx_model"] == "b.onnx"
    compiled.save("net.safetensors")
    (folder / "a.yaml").rename(folder / "first.yaml")
    hqc.load("net.safetensors").export("a.onnx")
    assert (folder / "a.yaml").read_text() == (folder / "first.yaml").read_text()


def test_a_loader_of_the_users_and_the_yaml(folder: Path) -> None:
    data = torch.utils.data.DataLoader([(torch.rand(3, H, W), 1)] * 3, batch_size=2)
    compiled = hqc.compile(
        Net(), torch.zeros(1, 3, H, W), march="bernoulli2", calibration_data=data, preprocessing=Preprocessing(std=(255,))
    )
    assert compiled.calibration.samples == 3
    compiled.export("a.onnx")
    inputs = yaml.safe_load((folder / "a.yaml").read_text())["input_parameters"]
    assert inputs["scale_value"].split() == ["0.00392156863"] * 3 and "mean_value" not in inputs
