"""A metric over a data set: the same numbers for one process, workers, ranks, and after an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.analysis.evaluate import VARIANTS, _without_torch, evaluate, top1, top5
from hqc.errors import InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def data() -> list[tuple[torch.Tensor, np.ndarray]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(22, 3, 8, 8, generator=generator)
    labels = np.random.default_rng(0).integers(0, 10, 22)
    return [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 22, 4)]


@pytest.fixture(scope="module")
def compiled() -> hqc.Compiled:
    torch.manual_seed(0)
    images = [batch for batch, _ in data()]
    return hqc.compile(Net().eval(), images[0], march="bayes", calibration_data=images)


def margins(outputs: Any, labels: Any) -> dict[str, Any]:
    """Numbers whose sums would differ if they were added in another order."""
    best = np.sort(outputs, 1)
    return {"margin": best[:, -1] - best[:, -2], "score": outputs[np.arange(len(labels)), labels]}


class Confusion:
    """A metric of the whole set."""

    def __call__(self, outputs: Any, labels: Any) -> list[list[int]]:
        return [[int(a), int(b)] for a, b in zip(outputs.argmax(1), labels, strict=True)]

    def combine(self, parts: list[list[list[int]]]) -> dict[str, float]:
        pairs = [pair for part in parts for pair in part]
        return {"classes": len({a for a, _ in pairs}), "right": sum(a == b for a, b in pairs) / len(pairs)}


def test_values_are_those_of_the_model(compiled: hqc.Compiled, tmp_path: Path) -> None:
    found = evaluate(compiled, data())
    for variant, call in (("integer", compiled.simulate), ("fake-quant", compiled.fake_quant)):
        right = sum(float(top1(call(images), labels).sum()) for images, labels in data())
        assert found.values[variant] == {"top1": right / 22}
    assert found.samples == 22 and "fake-quant: top1" in str(found)
    whole = evaluate(compiled, data(), Confusion(), variants=["integer"])
    assert whole.values["integer"]["right"] == found.values["integer"]["top1"]
    loaded = hqc.load(compiled.save(tmp_path / "net.safetensors"))
    assert evaluate(loaded, data()).values == {"integer": found.values["integer"]}
    assert evaluate(compiled, data(), "top5").values["float"]["top5"] >= found.values["float"]["top1"]
    assert top5(np.zeros((1, 10)), [4])[0] == 1 and top5(np.zeros((1, 10)), [5])[0] == 0


@pytest.mark.parametrize("variants", [None, ["integer"]], ids=["all", "integer"])
def test_workers_give_the_numbers_of_one_process(
    compiled: hqc.Compiled, variants: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hqc.workflow.workers.PATIENCE", 0.0)
    alone, shared = (evaluate(compiled, iter(data()), margins, workers=workers, variants=variants) for workers in (1, 2))
    assert alone == shared and set(alone.values["integer"]) == {"margin", "score"}


@pytest.mark.parametrize("engine", ["jit", "blas", "onednn"])
def test_torch_does_not_travel_where_neither_variant_nor_engine_needs_it(
    engine: str, compiled: hqc.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever engine this machine has: its answer is forced."""
    with monkeypatch.context() as forced:
        forced.setattr("hqc.backends.bpu.engines.get_engine", lambda name: SimpleNamespace(name=engine))
        assert _without_torch(compiled, margins, VARIANTS) is None
        sent = _without_torch(compiled, margins, ["integer"])
    assert (sent is None) == (engine == "onednn")
    if sent is not None:
        (loaded, *_), convert = sent()
        for index, (inputs, labels) in enumerate(data()):
            _, arrays, _ = convert((index, inputs, labels))
            assert loaded.simulate(*arrays).tobytes() == compiled.simulate(inputs).tobytes()


def _stopping(after: int) -> Iterator[Any]:
    for index, batch in enumerate(data()):
        if index == after:
            raise KeyboardInterrupt
        yield batch


def test_an_interrupted_evaluation_goes_on(compiled: hqc.Compiled, tmp_path: Path) -> None:
    file, seen = tmp_path / "state.json", []
    with pytest.raises(KeyboardInterrupt):
        evaluate(compiled, _stopping(3), margins, resume=file)
    assert len(json.loads(file.read_text())["batches"]) == 3
    again = evaluate(compiled, data(), margins, resume=file, progress=lambda done, rate: seen.append(done))
    assert again == evaluate(compiled, data(), margins) and again.resumed == 3 and seen == [4, 8, 10]
    with pytest.raises(InputError, match="of another model, metric or set of variants"):
        evaluate(compiled, data(), "top1", resume=file)
    file.write_text("{}")
    with pytest.raises(InputError, match="no evaluation to go on with"):
        evaluate(compiled, data(), margins, resume=file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": []}, "no batch came"),
        ({"batches": [torch.zeros(4, 3, 8, 8)]}, "no pair of inputs and labels"),
        ({"metric": "map"}, "there is no metric 'map'"),
        ({"metric": lambda outputs, labels: 1.0}, "the metric gives 1 numbers for the 4 samples of batch 1"),
        ({"variants": ["int8"]}, "variants are float, fake-quant, integer, got int8"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(compiled: hqc.Compiled, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(compiled, **{"batches": data(), **arguments})


RANKS = """
import sys, json
sys.path[:0] = {path!r}
import torch.distributed as dist
from test_evaluation import *
dist.init_process_group("gloo")
torch.manual_seed(0)
images = [batch for batch, _ in data()]
model = hqc.compile(Net().eval(), images[0], march="bayes", calibration_data=images[dist.get_rank()::2])
found = evaluate(model, data(), margins, resume={state!r})
json.dump(dict(found.values), open({out!r} + str(dist.get_rank()), "w"))
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_ranks_of_torchrun_give_the_numbers_of_one_process(compiled: hqc.Compiled, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    script = tmp_path / "script.py"
    script.write_text(
        RANKS.format(path=[root, str(Path(__file__).parent)], state=str(tmp_path / "state"), out=str(tmp_path / "out"))
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = evaluate(compiled, data(), margins).values
    assert [json.loads((tmp_path / f"out{rank}").read_text()) for rank in range(2)] == [expected, expected]
    assert (tmp_path / "state.rank0of2").is_file()


FILE = """
import torch
from test_evaluation import Net, data, margins
def seeded():
    torch.manual_seed(0)
    return Net().eval(), data()[0][0]
def loader():
    yield from data()
"""


def test_the_command(compiled: hqc.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from hqc.cli import main

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluated.py").write_text(FILE)
    compiled.save(tmp_path / "net.safetensors")
    expected = evaluate(compiled, data(), margins, variants=["integer"]).values["integer"]

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["evaluate", *words], env={"COLUMNS": "100"})
        return result.output if result.exit_code == 0 else f"{result.exit_code}: {result.output}{result.exception!r}"

    shown = run(
        "net.safetensors", "--data", "evaluated.py:loader", "--metric", "evaluated.py:margins", "--resume", "state.json"
    )
    assert f"{expected['margin']:.6g}" in shown and f"{expected['score']:.6g}" in shown and "22 samples" in shown
    assert "6 batches from state.json" in run(
        "net.safetensors", "--data", "evaluated.py:loader", "--metric", "evaluated.py:margins", "--resume", "state.json"
    )
    printed = json.loads(run("net.safetensors", "--data", "evaluated.py:loader", "--json").partition("\n22")[0])
    assert printed["samples"] == 22 and set(printed["values"]) == {"integer"}
    agreed = run("evaluated.py:seeded", "--march", "bayes", "--samples", "8", "--variants", "float,integer")
    assert "labelled with what the float model answers" in agreed and "integer" in agreed and "8 samples" in agreed
    assert "it has no float model" in run("net.safetensors") and "Missing option '--march'" in run("evaluated.py:seeded")
