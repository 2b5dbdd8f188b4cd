"""Modules, inputs and outputs with names that Python, yaml, terminals and file systems take for something else."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import image
from hqc.nn import QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx

NAMES = (
    "class", "def", "None", "a b", 'a"b', "a'b", "a\\b", "a\nb", "a\r\nb", "a;b", "\x1b[31mred", "\x07", "é", "中文", "0", "1x",
    "self", "x", "input",
    "graph", "%x", "@", "a/b", "a:b", "a,b", "[a]", "{a}", "${a}", "{{a}}", "<b>", "a" * 300, "_", "__init__", "print", "torch",
    "conv", "ＡＢ",
    "\u202eabc", "a\tb", "#", "loc", "null", "true", "- a", "*", "&a", "!x", "?", "|", ">", "a\u2028b", "\ud83d", "lambda", "nan", "inf",
)  # fmt: skip


class Tree(nn.Module):
    """Layers under the given names, one inside the other, and outputs by those names."""

    def __init__(self, names: list[str], outer: str, outputs: bool) -> None:
        super().__init__()
        inner = nn.ModuleDict()
        for index, name in enumerate(names):
            inner[name] = (nn.Conv2d(3, 3, 1), nn.PReLU(), nn.BatchNorm2d(3), nn.Softmax(1))[index % 4]
        self.add_module(outer, inner)
        self.quant = QuantStub()
        self.names, self.outer, self.outputs = names, outer, outputs

    def forward(self, x: Tensor) -> object:
        found = {}
        x = self.quant(x)
        for name in self.names:
            x = self._modules[self.outer][name](x)  # type: ignore[index]
            found[name] = x
        return found if self.outputs else x


@kind("names")
def make(generator: random.Random, folder: Path) -> Attempt:
    """From tracing to the yaml."""
    taken = dir(nn.ModuleDict())
    names = generator.sample([name for name in NAMES if name not in taken], generator.choice((1, 2, 3, 4)))
    outer = generator.choice([name for name in NAMES if name not in dir(Tree([], "k", outputs=False))])
    torch.manual_seed(0)
    model = Tree(names, outer, outputs=generator.random() < 0.5).eval()
    draw = generator.randrange(3)
    hybrid = {"module_name": [f"{outer}.{names[0]}"]} if generator.random() < 0.5 else None

    def attempt() -> object:
        hqc.set_march("bayes")
        if draw == 0:
            prepared = prepare_qat_fx(
                model, {"": get_default_qat_qconfig()}, hybrid=True, hybrid_dict=hybrid, example_inputs=image()
            )
            prepared(image())
            prepared.load_state_dict(prepared.state_dict())
            return convert_fx(prepared.eval())(image()), str(prepared)
        compiled = hqc.compile(model, image(), march="bayes", calibration_data=[image()], hybrid_dict=hybrid)
        lowered = hqc.lower(model, image())
        assert hqc.ir.parse(str(lowered), parameters=_all(lowered)) == lowered
        text = compiled.explain()
        compiled.export(folder / "net.onnx", verify=draw == 2)
        listed = yaml.safe_load((folder / "net.yaml").read_text())
        compiled.report(folder / "net.html")
        hqc.load(compiled.save(folder / "net.safetensors")).simulate(image())
        assert not any(ord(char) < 32 and char != "\n" for char in text), f"control characters in {text!r}"
        return listed

    return attempt


def _all(graph: hqc.ir.Graph) -> dict[str, object]:
    return {name: value.array for name, value in graph.parameters.items()}
