"""Models as users have them: packages, factories with arguments, checkpoints, exported programs, dumps, integer inputs, chips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from hqc.analysis.model_files import load_checkpoint, load_model
from hqc.analysis.user_files import example_inputs, random_batches
from hqc.cli import main
from hqc.errors import InputError

BLOCKS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, inputs, width):
        super().__init__(nn.Conv2d(inputs, width, 3), nn.ReLU())
"""
NET = """
import argparse
import torch
from torch import nn
from .blocks import Block
from ..settings import WIDTH

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=1)
arguments = parser.parse_args()

class Net(nn.Sequential):
    def __init__(self, width=WIDTH, *, depth=None):
        super().__init__(*(Block(3 if not i else width, width) for i in range(depth or arguments.depth)))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
    def forward(self, ids, mask):
        return self.head(self.embed(ids) * mask)

def make(width):
    return Net(width), torch.zeros(1, 3, 9, 9)

def late():
    return Net(8, depth=parser.parse_args().depth)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `shop.models`, importable from the working folder, and nothing of it left behind."""
    models = tmp_path / "shop" / "models"
    models.mkdir(parents=True)
    for each in (models.parent, models):
        (each / "__init__.py").write_text("")
    (tmp_path / "shop" / "settings.py").write_text("WIDTH = 4\n")
    (models / "blocks.py").write_text(BLOCKS)
    (models / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["hqc", "explain", "--unknown", "17"])
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]


def hqc(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result.stdout if status == 0 else result.stderr


@pytest.mark.parametrize("place", ["shop/models/net.py", "shop.models.net"])
@pytest.mark.parametrize(
    ("name", "width"), [("Net", 4), ("Net(6)", 6), ("Net(width=5, depth=2)", 5), ("make(width=7)", 7), ("late", 8)]
)
def test_packages_factories_arguments_and_argparse(place: str, name: str, width: int) -> None:
    model, inputs = load_model(f"{place}:{name}")
    assert isinstance(model, nn.Sequential) and model[0][0].out_channels == width
    assert (inputs is None) is not name.startswith("make")
    assert sys.argv == ["hqc", "explain", "--unknown", "17"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shop.models.net:Nett", "shop.models.net has no Nett; it defines .*; did you mean Net"),
        ("shop.modells.net:Net", "shop.modells.net cannot be imported: ModuleNotFoundError: No module named 'shop.modells'"),
        ("no_such_shop.net:Net", "there is no file no_such_shop.net and no module no_such_shop.net"),
        ("shop/models/nett.py:Net", "there is no file shop/models/nett.py"),
        (
            "shop.models.net:Net(widht=3)",
            r"got an unexpected keyword argument 'widht'; it takes Net\(width=4, \*, depth=None\)",
        ),
        ("shop.models.net:make", r"missing a required argument: 'width'; it takes make\(width\)"),
        ("shop.models.net:Net(width=WIDTH)", r"the arguments in Net\(width=WIDTH\) must be literals"),
        ("shop.models.net:Net(width=(", "must be literals"),
        ("shop.models.net:Net(**{})", "must be literals"),
        ("Net(width=3)", r"give the model as FILE.py:NAME, package.module:NAME or FILE.onnx, got Net\(width=3\)"),
        ("shop.models.net:WIDTH", "WIDTH in shop.models.net is a int"),
        ("weights.pt", "there is no file weights.pt"),
        ("no.hqc", "there is no file no.hqc"),
    ],
)
def test_what_is_not_there(spec: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


# --- checkpoints -----------------------------------------------------------------------------------------------------------


def state(fill: float = 0.5) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(value, fill) for name, value in load_model("shop.models.net:Net")[0].state_dict().items()}


@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "model", "ddp", "lightning", "safetensors", "module"])
def test_checkpoints_of_training_scripts(wrapped: str) -> None:
    file = "weights.pt"
    match wrapped:
        case "safetensors":
            file = "weights.safetensors"
            save_file(state(), file)
        case "bare":
            torch.save(state(), file)
        case "ddp":
            torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state().items()}}, file)
        case "lightning":
            torch.save({"state_dict": {f"model.{name}": value for name, value in state().items()}, "lr": 0.1}, file)
        case key:
            torch.save({key: state(), "optimizer": {"state": {}}}, file)
    model, _ = load_model("shop.models.net:Net", file)
    assert all(bool((value == 0.5).all()) for value in model.state_dict().values())


def test_checkpoints_that_do_not_fit() -> None:
    found = state()
    del found["0.0.bias"]
    found["0.0.weigth"] = found.pop("0.0.weight")
    torch.save(found, "names.pt")
    torch.save({**state(), "0.0.bias": torch.zeros(9)}, "shapes.pt")
    torch.save(nn.Conv2d(1, 1, 1), "module.pt")
    torch.save({"epoch": 1, "loss": 0.5}, "numbers.pt")
    Path("junk.pt").write_text("junk")
    Path("junk.safetensors").write_text("junk")
    for file, sentence in (
        ("names.pt", "does not fit the model: the model has no 0.0.weigth; did you mean .*; it lacks 0.0.weight; it lacks 0.0.bias"),
        ("shapes.pt", r"0.0.bias has shape \[9\], the model's \[4\]"),
        ("module.pt", "holds Python objects beside weights, which are not executed"),
        ("numbers.pt", "holds a dict with epoch, loss, not a state_dict of tensors"),
        ("junk.pt", "junk.pt"),
        ("junk.safetensors", "cannot be read as .safetensors"),
        ("none.pt", "there is no checkpoint none.pt"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence) as caught:
            load_model("shop.models.net:Net", file)
        assert "\n" not in str(caught.value)


def test_weights_are_not_a_model() -> None:
    torch.save(state(), "weights.pt")
    with pytest.raises(InputError, match="holds weights, not the model"):
        load_model("weights.pt")
    before = state()
    model = load_model("shop.models.net:Net")[0]
    torch.save(before, "weights.pt")
    load_checkpoint(model, "weights.pt")
    assert torch.equal(model.state_dict()["0.0.weight"], before["0.0.weight"])


# --- other files, inputs, chips --------------------------------------------------------------------------------------------


def test_dumps_are_models_before_placement() -> None:
    model = "shop.models.net:make(width=4)"
    hqc("compile", model, "--march", "x3", "--samples", "1", "--dump-dir", "dumps", "-o", "net.onnx")
    direct = hqc("explain", model, "--march", "bernoulli2", "--all")
    assert "1 operation on the BPU" in direct
    again = hqc("explain", "dumps/prepare/000-input.hqc", "--march", "x3", "--all")
    assert "1 operation on the BPU" in again and "conv2d" in again
    late = sorted(Path("dumps/prepare").glob("*insert-boundaries*.hqc"))[0]
    assert "holds a graph after placement; give one from before" in hqc("explain", str(late), "--march", "x3", status=1)
    hqc("compile", "dumps/prepare/000-input.hqc", "--march", "x5", "--samples", "1", "-o", "again.onnx")
    assert 'march: "bayes-e"' in Path("again.yaml").read_text()
    assert "has its own weights; --checkpoint" in hqc("explain", "a.hqc", "--checkpoint", "b.pt", "--march", "x3", status=1)


def test_exported_programs_in_a_file_and_in_a_module(folder: Path) -> None:
    text = "import torch\nprogram = torch.export.export(torch.nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),))\n"
    (folder / "exported.py").write_text(text)
    assert "1 operation on the BPU" in hqc("explain", "exported.py:program", "--march", "j5")
    torch.export.save(load_model("exported.py:program")[0], "net.pt2")
    assert "1 operation on the BPU" in hqc("explain", "net.pt2", "--march", "j5")
    Path("junk.pt2").write_text("junk")
    assert "junk.pt2 cannot be read as an exported program" in hqc("explain", "junk.pt2", "--march", "j5", status=1)


def test_integer_inputs_by_position_and_by_name() -> None:
    words = "shop.models.net:Words"
    for shapes in (["--input", "1,5:int64", "--input", "1,5,1"], ["--input", "mask=1,5,1", "--input", "ids=1x5:int64"]):
        assert "operations on the BPU" in hqc("explain", words, "--march", "bayes", *shapes)
    model = load_model(words)[0]
    ids, mask = example_inputs(["ids=2,5:int32", "mask=2,5,1"], None, model)
    assert ids.dtype == torch.int32 and mask.shape == (2, 5, 1)
    assert all(torch.equal(batch[0], ids) and not torch.equal(batch[1], mask) for batch in random_batches((ids, mask), 2))
    with pytest.raises(InputError, match="batches of random inputs: at most 10,000 are drawn"):
        random_batches(["no tensor"], 10**20)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (["id=1,5"], "forward has no input id; it takes .*; did you mean ids"),
        (["mask=1,5,1"], "--input says nothing of ids, which forward takes before mask"),
        (["ids=1,5", "1,5,1"], "give --input NAME=SIZES for each input"),
        (["1,5:integer"], "takes a type such as float32, int64 or bool behind the sizes, got integer"),
        (["1,5:int64:3"], "got int64:3"),
    ],
)
def test_inputs_that_make_no_sense(shapes: list[str], sentence: str) -> None:
    model: Any = load_model("shop.models.net:Words")[0]
    with pytest.raises(InputError, match=sentence):
        example_inputs(shapes, None, model)


@pytest.mark.parametrize("pair", ["x2 bernoulli", "J2 bernoulli", "x3 bernoulli2", "j5 bayes", "X5 bayes-e"])
def test_chips_are_marches(pair: str) -> None:
    chip, march = pair.split()
    assert hqc("ops", "--march", chip, "conv2d") == hqc("ops", "--march", march, "conv2d")
