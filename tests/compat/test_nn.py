"""Modules and functions of perception models: numbers against definitions, and models that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc
from hqc.errors import InputError, QConfigError
from hqc.functional import nms_rotated, sort
from hqc.march import March, set_march
from hqc.nn import activations, qat
from hqc.nn import functional as nnf
from hqc.nn.qat import avg_pool2d, batchnorm, functional_modules, interpolate, relu, segment_lut, upsampling
from hqc.nn.quantized import FloatFunctional
from hqc.nn.quantized import functional as quantized
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.utils.mxrecordio import MXIndexedRecordIO, MXRecordIO
from hqc.utils.serialization import save_with_version

IMAGES = torch.tensor([[255.0, 0.0, 0.0], [0.0, 255.0, 0.0], [255.0, 255.0, 255.0], [0.0, 0.0, 0.0]]).t().reshape(1, 3, 2, 2)


@pytest.fixture(autouse=True)
def _march() -> None:
    set_march(March.BAYES)
    torch.manual_seed(0)


# --- colours ---------------------------------------------------------------------------------------------------------------------


def test_colours_are_bt601() -> None:
    studio = hqc.rgb2yuv(IMAGES)[0].flatten(1).t()
    expected = torch.tensor([[81.5, 90.2, 240.0], [144.6, 53.8, 34.2], [235.0, 128.0, 128.0], [16.0, 128.0, 128.0]])
    assert torch.allclose(studio, expected, atol=0.1)
    full = hqc.rgb2yuv(IMAGES, swing="full")[0, 0].flatten()
    assert torch.allclose(full, torch.tensor([76.245, 149.685, 255.0, 0.0]), atol=1e-3)
    assert torch.allclose(hqc.rgb2centered_yuv(IMAGES), hqc.rgb2yuv(IMAGES) - 128.0)
    assert torch.allclose(hqc.bgr2centered_yuv(hqc.rgb2bgr(IMAGES)), hqc.rgb2centered_yuv(IMAGES))
    assert torch.allclose(hqc.bgr2gray(hqc.bgr2rgb(IMAGES)), hqc.rgb2gray(IMAGES))
    assert torch.allclose(hqc.bgr2centered_gray(IMAGES) + 128.0, hqc.bgr2gray(IMAGES))
    assert torch.allclose(hqc.nn.BgrToYuv444(channel_reversal=True)(IMAGES), hqc.rgb2yuv(IMAGES))
    with pytest.raises(InputError, match="swing must be one of full, studio"):
        hqc.rgb2yuv(IMAGES, swing="half")
    with pytest.raises(InputError, match=r"images \[N,3,H,W\]"):
        hqc.rgb2yuv(torch.ones(1, 4, 2, 2))


@pytest.mark.parametrize("swing", ["studio", "full"])
def test_colours_go_back(swing: str) -> None:
    yuv = hqc.rgb2centered_yuv(IMAGES, swing)
    assert torch.allclose(hqc.centered_yuv2rgb(yuv, swing, mean=0.0, std=1.0, q_scale=None), IMAGES, atol=1e-3)
    mean = [1.0, 2.0, 3.0]
    as_bgr = hqc.centered_yuv2bgr(yuv, swing, mean=mean, std=2.0, q_scale=0.5)
    expected = ((IMAGES.flip(1) - torch.tensor(mean).view(3, 1, 1)) / 2.0 / 0.5).round().clamp(-128, 127) * 0.5
    assert torch.allclose(as_bgr, expected, atol=1e-4)


# --- functions of one input and layers -------------------------------------------------------------------------------------------


ACTIVATIONS = [
    name
    for name, kind in vars(activations).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and name[0].isupper()
]


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in ("HardLog", "Pow", "Div")])
def test_functions_of_one_input(name: str) -> None:
    x = torch.linspace(1.0, 2.0, 5) if name == "Acosh" else torch.linspace(0.1, 0.9, 5)
    reference = F.selu if name == "Selu" else getattr(torch, name.lower())
    assert torch.equal(getattr(hqc.nn, name)()(x), reference(x))


def test_functions_with_arguments() -> None:
    x = torch.tensor([-1.0, 0.5, 4.0])
    assert torch.allclose(hqc.nn.HardLog()(x), torch.log(torch.tensor([1e-5, 0.5, 4.0])))
    assert torch.equal(hqc.nn.Pow()(x, 2), x**2) and torch.equal(hqc.nn.Div()(x, x), torch.ones(3))


def test_layers() -> None:
    x = torch.randn(2, 4, 6, 6)
    over_channels = hqc.nn.LayerNorm([4, 1, 1], dim=1)
    assert torch.allclose(over_channels(x), F.layer_norm(x.movedim(1, -1), [4]).movedim(-1, 1), atol=1e-5)
    assert torch.allclose(hqc.nn.LayerNorm(6)(x), F.layer_norm(x, [6]))
    assert torch.allclose(hqc.nn.RMSNorm(6, eps=1e-6)(x), F.rms_norm(x, [6], eps=1e-6), atol=1e-6)
    resized = hqc.nn.Interpolate(scale_factor=2, mode="nearest")(x)
    assert torch.equal(resized, F.interpolate(x, scale_factor=2))
    grid = torch.rand(2, 3, 3, 2) * 2 - 1
    assert torch.equal(hqc.nn.GridSample()(x, grid), F.grid_sample(x, grid, align_corners=False))


def test_correlation_of_a_map_with_its_shift() -> None:
    x = torch.randn(1, 3, 8, 8)
    maps = hqc.nn.Correlation(max_displacement=1, pad_size=1)(x, x.roll(1, dims=3))
    assert maps.shape == (1, 9, 8, 8)
    centre = maps[0, :, 2:6, 2:6].flatten(1).mean(1)
    assert int(centre.argmax()) == 5  # one pixel to the right
    assert torch.allclose(maps[0, 5, 1:7, 1:7], (x * x).mean(1)[0, 1:7, 1:7], atol=1e-6)


@pytest.mark.parametrize("name", ["Exp", "Sin", "Reciprocal", "LayerNorm", "Interpolate"])
def test_they_are_planned_by_their_functions(name: str) -> None:
    layers = {
        "LayerNorm": lambda: hqc.nn.LayerNorm([4, 1, 1], dim=1),
        "Interpolate": lambda: hqc.nn.Interpolate(scale_factor=2),
    }

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = hqc.nn.QuantStub(), hqc.nn.DeQuantStub()
            self.conv, self.layer = nn.Conv2d(3, 4, 1), layers.get(name, getattr(hqc.nn, name))()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.dequant(self.layer(self.conv(self.quant(x)).abs() + 0.5))
            return result

    x = torch.rand(1, 3, 6, 6)
    model = prepare_qat_fx(Net().eval(), {"": get_default_qat_qconfig()}, hybrid=True).eval()
    expected = model.preparation.float_model(x).detach()
    assert torch.allclose(model(x), expected, atol=0.1 * float(expected.abs().max()))
    assert torch.allclose(convert_fx(model)(x), model(x), atol=0.1 * float(expected.abs().max()))


def test_matmul_with_transposed_operands() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.product = hqc.nn.QuantStub(), hqc.nn.DeQuantStub(), FloatFunctional()

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            return self.dequant(self.product.matmul(x, x, x_trans=False, y_trans=True))

    x = torch.randn(1, 2, 4, 8)
    assert torch.allclose(FloatFunctional().matmul(x, x, x_trans=True), x.mT @ x)
    model = prepare_qat_fx(Net().eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x).eval()
    assert torch.allclose(model(x), x @ x.mT, atol=0.2) and torch.allclose(convert_fx(model)(x), model(x), atol=0.2)


# --- layers by hand --------------------------------------------------------------------------------------------------------------


def test_quantized_training_layers_by_hand() -> None:
    config = get_default_qat_qconfig()
    pool = avg_pool2d.AvgPool2d(2, qconfig=config)
    x = torch.rand(1, 2, 4, 4)
    y = pool(x)
    steps = y / pool.activation_post_process.scale
    assert torch.allclose(steps, steps.round(), atol=1e-3) and torch.allclose(y, F.avg_pool2d(x, 2), atol=0.01)
    norm = nn.BatchNorm2d(2).eval()
    norm.qconfig = config  # type: ignore[assignment]
    twin = batchnorm.BatchNorm2d.from_float(norm)
    assert twin.weight is norm.weight and torch.allclose(twin(x), norm(x), atol=0.02)
    for layer in (
        relu.ReLU(qconfig=config),
        interpolate.Interpolate(scale_factor=2, qconfig=config),
        upsampling.Upsample(scale_factor=2, qconfig=config),
        upsampling.UpsamplingBilinear2d(scale_factor=2, qconfig=config),
        segment_lut.SegmentLUT(torch.sin, qconfig=config),
    ):
        assert layer(x).shape[:2] == (1, 2) and layer.activation_post_process.calibrated
    add = functional_modules.FloatFunctional(config)
    assert torch.allclose(add.add(x, x), x + x, atol=0.02) and add.activation_post_process.calibrated
    assert qat.conv2d.ConvAddReLU2d is qat.ConvAddReLU2d
    with pytest.raises(QConfigError, match="AvgPool2d needs a qconfig"):
        avg_pool2d.AvgPool2d(2)
    with pytest.raises(InputError, match="from_float needs a AvgPool2d, got ReLU"):
        avg_pool2d.AvgPool2d.from_float(nn.ReLU(), config)


def test_integers_and_back() -> None:
    q = quantized.quantize(torch.tensor([0.5, 1.5, 900.0]), torch.tensor([1.0]))
    assert q.dtype == torch.int8 and q.tolist() == [0, 2, 127]
    assert quantized.dequantize(q, torch.tensor([0.5])).tolist() == [0.0, 1.0, 63.5]
    assert quantized.requantize(q, torch.tensor([1.0]), torch.tensor([2.0]), "qint16").tolist() == [0, 1, 64]


# --- boxes -----------------------------------------------------------------------------------------------------------------------

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 11.0, 11.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 9.0, 9.0]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.95])


def test_suppression() -> None:
    assert nnf.box_iou(BOXES[:1], BOXES).tolist()[0] == pytest.approx([1.0, 81 / 119, 0.0, 0.81])
    assert nnf.nms(BOXES, SCORES, 0.7).tolist() == [3, 1, 2] and nnf.nms(BOXES, SCORES, 0.5).tolist() == [3, 2]
    classes = torch.tensor([0, 1, 0, 0])
    assert nnf.batched_nms_with_padding(BOXES, SCORES, classes, 0.5).tolist() == [3, 1, 2]
    padded = nnf.batched_nms_with_padding(BOXES, SCORES, None, 0.1, post_nms_top_n=4, pad_mode="pad_zero")
    assert padded.tolist() == [3, 2, -1, -1]
    assert nnf.batched_nms_with_padding(BOXES, SCORES, None, 0.1, -1, 3, "rollover").tolist() == [3, 2, 3]
    assert nnf.get_top_n(BOXES, torch.tensor([2, 0, 1]), 2, order=True).tolist() == BOXES[[0, 2]].tolist()


def test_rotated_suppression() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [0.0, 0.0, 2.0, 4.0, torch.pi / 2], [0.0, 0.0, 4.0, 2.0, torch.pi / 2]])
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]  # the second is the first, turned
    with pytest.raises(InputError, match=r"\[N,5\]"):
        nms_rotated(BOXES, SCORES, 0.5)


def test_decoding_and_sorting() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    deltas = torch.tensor([[0.1, -0.1, 0.0, torch.log(torch.tensor(2.0))]])
    assert torch.allclose(nnf.decode(anchors, deltas), torch.tensor([[1.0, -12.0, 11.0, 28.0]]))
    assert torch.allclose(nnf.decode(anchors, deltas, (25, 8)), torch.tensor([[1.0, 0.0, 8.0, 25.0]]))
    assert [part.tolist() for part in sort(torch.tensor([1, 0, 1, 0]))] == [[0, 0, 1, 1], [1, 3, 0, 2]]


def test_anchors() -> None:
    (anchors,) = hqc.nn.AnchorGenerator([8], [1.0, 2.0], [0.5, 2.0])([torch.zeros(1, 4, 2, 3)])
    assert anchors.shape == (1, 4 * 4, 2, 3)
    boxes = anchors.reshape(4, 4, 2, 3)
    sides = boxes[:, 2:, 0, 0] - boxes[:, :2, 0, 0]
    assert torch.allclose(sides.prod(1), torch.tensor([64.0, 256.0, 64.0, 256.0]))
    assert torch.allclose(sides[0, 1] / sides[0, 0], torch.tensor(0.5))
    assert torch.allclose(boxes[0, :, 1, 2] - boxes[0, :, 0, 0], torch.tensor([16.0, 8.0, 16.0, 8.0]))


def test_roi_align_averages_the_region() -> None:
    plane = torch.arange(16.0).expand(16, 16)[None, None]  # the value is the column
    align = hqc.nn.MultiScaleRoIAlign((2, 2), [1, 2], sampling_ratio=2, canonical_box_size=8, canonical_level=0)
    levels = [plane, plane[:, :, ::2, ::2]]
    result = align(levels, [torch.tensor([[2.0, 2.0, 6.0, 6.0]])])
    assert torch.allclose(result, torch.tensor([[[[3.0, 5.0], [3.0, 5.0]]]]), atol=1e-4)
    assert align(levels, [torch.tensor([[0.0, 0.0, 14.0, 14.0]]), torch.zeros(0, 4)]).shape == (1, 1, 2, 2)


def test_post_processing() -> None:
    data = torch.full((1, 2 + 4, 2, 2), -1.0)
    data[0, 1, 0, 1] = 0.9
    data[:, 2:] = 0.0
    anchors = hqc.nn.AnchorGenerator([8], [1.0], [1.0])([data])
    process = hqc.nn.DetectionPostProcess(2, 0.5, image_size=(16, 16))
    ((boxes, scores, classes),) = process([data], anchors)
    assert scores.tolist() == pytest.approx([0.9]) and classes.tolist() == [1]
    assert torch.allclose(boxes, torch.tensor([[7.5, 0.0, 15.5, 7.5]]))
    older = hqc.nn.DetectionPostProcessV1(2, 0.5, [3], True, (16, 16), 0.5, 10, 10)
    assert older([data], anchors)[0][2].tolist() == [4]
    second = hqc.nn.RcnnPostProcess(image_size=(16, 16), num_classes=2)
    rows = second([torch.tensor([[0.0, 0.0, 8.0, 8.0]])], torch.tensor([[0.0, 5.0, 0.0]]), torch.zeros(1, 8))
    assert rows[0][0, :4].tolist() == [0.0, 0.0, 8.0, 8.0] and rows[0][0, 5] == 1.0


# --- maps and points -------------------------------------------------------------------------------------------------------------


def test_windows_and_filter() -> None:
    x = torch.randn(2, 4, 6, 3)
    windows = nnf.window_partition(x, 2)
    assert windows.shape == (2 * 2 * 3, 2, 2, 3) and torch.equal(windows[1], x[0, :2, 2:4])
    assert torch.equal(nnf.window_reverse(windows, 2, 4, 6), x)
    scores, boxes = torch.zeros(1, 3, 2, 2), torch.arange(16.0).reshape(1, 4, 2, 2)
    scores[0, 2, 1, 0] = 5.0
    ((values, channels, where, first, second),) = nnf.filter(scores, boxes, threshold=1.0, idx_range=(1, 2))
    assert values.tolist() == [5.0] and channels.tolist() == [2] and where.tolist() == [[1, 0]]
    assert first.tolist() == [[0.0, 0.0, 5.0]] and second.tolist() == [[2.0, 6.0, 10.0, 14.0]]
    with pytest.raises(InputError, match=r"\[N,C,H,W\]"):
        nnf.filter(torch.zeros(3), threshold=0.0)


def test_point_pillars() -> None:
    points = torch.tensor([[0.5, 0.5, 0.0, 1.0], [3.5, 1.5, 0.0, 2.0], [0.6, 0.4, 0.0, 3.0], [9.0, 0.0, 0.0, 4.0]])
    area = {"pc_range": [0, 0, -1, 4, 2, 1], "voxel_size": [1, 1, 2]}
    voxels, cells, counts = nnf.voxelization(points, max_points=2, max_voxels=5, **area)
    assert cells.tolist() == [[0, 0, 0], [0, 1, 3]] and counts.tolist() == [2, 1]
    assert voxels[0, :, 3].tolist() == [1.0, 3.0] and voxels[1, 1].tolist() == [0.0] * 4
    features, coordinates = nnf.point_pillars_preprocess([points], max_voxels=3, max_points_per_voxel=2, **area)
    assert features.shape == (1, 4, 2, 3) and coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 1, 3], [-1] * 4]
    canvas = hqc.nn.PointPillarsScatter((1, 1, 2, 4))(torch.tensor([[7.0], [8.0], [9.0]]), coordinates)
    assert canvas[0, 0].tolist() == [[7.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 8.0]]
    scaled, _ = nnf.point_pillars_preprocess(
        [points], max_voxels=3, max_points_per_voxel=2, norm_dims=[0], norm_range=[0.0, 4.0], use_max=False, **area
    )
    assert scaled.shape[-1] == 2 and float(scaled[0, 0, 0, 1]) == pytest.approx(3.5 / 4)


# --- files -----------------------------------------------------------------------------------------------------------------------


def test_record_files(tmp_path: Path) -> None:
    with MXRecordIO(tmp_path / "plain.rec", "w") as file:
        for data in (b"", b"abc", b"12345678"):
            file.write(data)
    with MXRecordIO(tmp_path / "plain.rec", "r") as file:
        assert [file.read() for _ in range(4)] == [b"", b"abc", b"12345678", None]
        with pytest.raises(InputError, match="not open for this"):
            file.write(b"x")
    with MXIndexedRecordIO(tmp_path / "data.idx", tmp_path / "data.rec", "w") as indexed:
        for key in range(3):
            indexed.write_idx(key, f"record {key}".encode())
    with MXIndexedRecordIO(tmp_path / "data.idx", tmp_path / "data.rec", "r") as indexed:
        assert indexed.keys == [0, 1, 2] and indexed.read_idx(1) == b"record 1"
        with pytest.raises(InputError, match="has no key 7"):
            indexed.read_idx(7)
    (tmp_path / "broken.rec").write_bytes(b"not a record file")
    with pytest.raises(InputError, match="is no record file"):
        MXRecordIO(tmp_path / "broken.rec", "r").read()


def test_checkpoints_say_their_version(tmp_path: Path) -> None:
    save_with_version({"epoch": 1}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth") == {"epoch": 1, "hqc_version": hqc.__version__}
    save_with_version({"weight": torch.ones(1)}, tmp_path / "b.pth")
    assert set(torch.load(tmp_path / "b.pth")) == {"weight"}
