"""The report without a browser: one file, and the data in it agrees with every other view."""

from __future__ import annotations

import hashlib
import html
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import hqc
from hqc.analysis.report import render
from hqc.analysis.report.collect import collect
from hqc.analysis.report.measure import histogram
from hqc.analysis.report.page import LIBRARIES, SCRIPTS
from hqc.analysis.report.trace import changes
from hqc.cli import main
from hqc.errors import InputError
from hqc.ir import DType, QuantParams
from hqc.ir.printer import print_graph
from hqc.march import all_specs
from tests.analysis.reported import Net, X, compiled_net, held

ROOM = resources.files("hqc.analysis.report")


@pytest.fixture(scope="module")
def compiled() -> hqc.Compiled:
    return compiled_net()


@pytest.fixture(scope="module")
def page(compiled: hqc.Compiled, tmp_path_factory: pytest.TempPathFactory) -> str:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path_factory.mktemp("report") / "net.html"
    found = compiled.report(path, progress=lambda done, total: seen.append((done, total))).read_text(encoding="utf-8")
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)] and len(seen) > 4
    return found


@pytest.fixture(scope="module")
def data(page: str) -> Any:
    return held(page)


class Elements(HTMLParser):
    """Every start tag with its attributes; scripts and styles are no markup."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_it_is_one_file_that_needs_no_network(page: str) -> None:
    elements = Elements(page).found
    assert not [(tag, each) for tag, each in elements if "src" in each or tag in ("link", "iframe")]
    assert "@import" not in page and "url(" not in page
    identifiers = [each["id"] for _, each in elements if "id" in each]
    assert len(identifiers) == len(set(identifiers))
    assert len(held(page, "libraries")) == len(LIBRARIES)
    assert len(page) < 2_000_000


def test_every_operation_is_in_it_with_device_reasons_and_source(compiled: hqc.Compiled, data: Any) -> None:
    placement = compiled.placement
    found = [
        (row["name"], row["device"], row["subgraph"], row["why"], row["change"], row["macs"]) for row in data["operations"]
    ]
    assert found == [(row.name, row.device, row.subgraph, placement.why(row), row.change, row.macs) for row in placement.rows]
    assert all(row["source"].startswith("reported.py:") for row in data["operations"])
    assert data["totals"]["crossing_bytes"] == placement.totals.crossing_bytes > 0


def test_four_chips_stand_beside_each_other(data: Any) -> None:
    assert [chip["march"] for chip in data["chips"]] == ["bernoulli", "bernoulli2", "bayes", "bayes-e"]
    assert all(len(row["chips"]) == 4 and set(row["chips"]) <= {"bpu", "cpu", "mixed"} for row in data["operations"])
    here = [chip["march"] for chip in data["chips"]].index("bayes")
    assert [row["chips"][here] for row in data["operations"]] == [row["device"] for row in data["operations"]]


def test_the_picture_and_the_table_speak_of_the_same_operations(data: Any) -> None:
    boxes = data["picture"]["boxes"]
    assert [boxes[row["box"]][3] for row in data["operations"]] == list(range(len(data["operations"])))
    assert [boxes[row["box"]][0] for row in data["operations"]] == [row["device"] for row in data["operations"]]
    assert len(data["picture"]["statements"]) == len(boxes)
    assert all(0 <= end < len(boxes) for *ends, _ in data["picture"]["edges"] for end in ends)
    assert {each["box"] for each in data["boundaries"]} == {index for index, box in enumerate(boxes) if box[0] == "boundary"}
    assert data["picture"]["svg"].count('class="node ') == len(boxes)


def test_measurements_are_those_of_the_run(compiled: hqc.Compiled, data: Any) -> None:
    by_name = {row["where"]: row for row in data["operations"]}
    conv = by_name["stage.0.conv1"]
    value = compiled.graph.value(conv["name"])
    assert sum(conv["histogram"]["float"]) == sum(conv["histogram"]["quantized"]) == value.type.size
    assert value.quant is not None
    assert conv["histogram"]["clip"] == [float(value.quant.scale) * -128, float(value.quant.scale) * 127]
    assert 20 < conv["error"]["sqnr"] < 80 and conv["layer"]["max"] <= 1
    assert conv["own"]["rank"] >= 1 and conv["ms"] > 0
    act = by_name["stage.0.act"]
    assert {row["error"]["view"] for row in data["operations"] if row["device"] == "bpu"} == {"simulator"}
    assert act["error"]["sqnr"] > 20 and act["histogram"]["clip"] is not None  # of the quantize behind it
    assert data["measured"]["real"] and data["measured"]["sqnr"] == data["outputs"][0]["sqnr"]


def test_the_passes_are_those_that_made_the_model(compiled: hqc.Compiled, data: Any, tmp_path: Path) -> None:
    lines, steps = data["passes"]["lines"], data["passes"]["steps"]
    texts = [[lines[number] for number in step["text"]] for step in steps]
    assert texts[-1] == print_graph(compiled.integer_graph, locations=False).splitlines()
    assert [step["pipeline"] for step in steps if step["name"] == "input"] == ["prepare", "deploy", "integer"]
    for before, step in itertools.pairwise(steps):
        if step["name"] == "input":
            continue
        made, end = [], 0
        for i1, i2, j1, j2 in step["changes"]:
            made += before["text"][end:i1] + step["text"][j1:j2]
            end = i2
        assert made + before["text"][end:] == step["text"]
    conv = next(index for index, row in enumerate(data["operations"]) if row["where"] == "stage.0.conv1")
    mine = [[lines[step["text"][line]] for line, *owners in step["owners"] if conv in owners] for step in steps]
    assert len(mine[0]) == 3 and [len(each) for each in mine][-1] == 1  # conv, batch norm and relu become one
    assert all(("layer" not in line and "stage_0_" in line) or "relu" in line for each in mine for line in each)


@pytest.mark.parametrize(("before", "after"), [([], [1]), ([1, 2, 3], [1, 3]), ([1, 2], [2, 1]), ([5, 5, 5], [5])])
def test_changes_lead_from_one_text_to_the_other(before: list[int], after: list[int]) -> None:
    made, end = [], 0
    for i1, i2, j1, j2 in changes(before, after):
        made += before[end:i1] + after[j1:j2]
        end = i2
    assert made + before[end:] == after


def test_histograms_of_odd_values() -> None:
    grid = QuantParams(0.5, DType.INT8)
    flat = histogram(np.zeros(10, np.float32), np.zeros(10, np.float32), grid)
    assert flat is not None and sum(flat["float"]) == 10 and flat["clip"] == [-64.0, 63.5]
    assert histogram(np.array([np.nan], np.float32), np.array([0.0]), grid) is None
    assert histogram(np.array([1, 2]), np.array([1, 2]), None) is None
    per_channel = histogram(np.ones((2, 2), np.float32), np.ones((2, 2)), QuantParams([1.0, 2.0], DType.INT8, axis=0))
    assert per_channel is not None and per_channel["clip"] is None


def test_without_measuring_nothing_runs_and_equal_models_give_equal_files(compiled: hqc.Compiled, monkeypatch: Any) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("hqc.backends.bpu.Program.run", forbidden)
    pages = [render(collect(compiled, measure=False)) for _ in range(2)]
    assert pages[0] == pages[1]
    found = held(pages[0])
    assert found["measured"] is None and not any("error" in row or "histogram" in row for row in found["operations"])
    (shown,) = re.findall(r'^<iframe srcdoc="([^"]*)"', compiled._repr_html_())
    assert html.unescape(shown) == pages[0]


def test_an_explanation_has_a_page(tmp_path: Path) -> None:
    explanation = hqc.explain(Net(), X, march="bayes")
    path = explanation.report(tmp_path / "plan.html")
    found = held(path.read_text(encoding="utf-8"))
    assert [(row["name"], row["device"]) for row in found["operations"]] == [
        (row.name, row.device) for row in explanation.placement.rows
    ]
    assert {row["dtype"] for row in found["operations"]} >= {"i8", "f32"}  # observed, and on the CPU
    assert [chip["march"] for chip in found["chips"]] == [spec.name for spec in all_specs()]
    assert all(len(row["chips"]) == len(found["chips"]) for row in found["operations"])
    assert found["measured"] is None and [step["name"] for step in found["passes"]["steps"]][-1] == "settle-rounding"
    assert "<iframe" in explanation._repr_html_()


def test_a_saved_model_has_a_page_without_torch(compiled: hqc.Compiled, tmp_path: Path) -> None:
    loaded = hqc.load(compiled.save(tmp_path / "net.safetensors"))
    seen: list[tuple[int, int | None]] = []
    path = loaded.report(tmp_path / "net.html", progress=lambda done, total: seen.append((done, total)))
    found, whole = held(path.read_text(encoding="utf-8")), collect(compiled, measure=False)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for key in ("name", "march", "totals", "boundaries"):
        assert json.dumps(found[key]) == json.dumps(whole[key])
    for key in ("boxes", "edges", "clusters"):  # a file keeps one place for a fused operation: some are called otherwise
        assert json.dumps(found["picture"][key]) == json.dumps(whole["picture"][key])
    assert [row["why"] for row in found["operations"]] == [row["why"] for row in whole["operations"]]
    assert found["chips"] == found["advice"] == [] and found["measured"]["real"] and found["measured"]["ms"] > 0
    assert [step["name"] for step in found["passes"]["steps"]] == ["input", "lower-to-integer"]
    assert "<iframe" in loaded._repr_html_()
    script = (
        "import sys, hqc; hqc.load('net.safetensors').report('again.html'); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_both_languages_have_every_word() -> None:
    words = json.loads(ROOM.joinpath("page", "words.json").read_text(encoding="utf-8"))
    sources = [ROOM.joinpath("page", name).read_text(encoding="utf-8") for name in ("report.html.j2", *SCRIPTS)]
    text = "\n".join(sources)
    used = set(re.findall(r'words\.of\("(\w+)"', text)) | set(re.findall(r'data-(?:word|placeholder)="(\w+)"', text))
    used |= set(re.findall(r'(?:column\(|\[)"([a-z_]+)", (?:each|\(|this|found|`|on\b|\(chip)', text)) & set(words)
    assert used <= set(words) and len(used) > 40
    assert all(set(each) == {"en", "zh"} and all(each.values()) for each in words.values())
    holes = [sorted(re.findall(r"\{\d\}", each["en"])) == sorted(re.findall(r"\{\d\}", each["zh"])) for each in words.values()]
    assert all(holes)


def test_vendored_libraries_are_the_recorded_ones() -> None:
    folder = ROOM.joinpath("vendor")
    recorded = {each["file"]: each for each in json.loads(folder.joinpath("vendored.json").read_text(encoding="utf-8"))}
    present = {path.name for path in folder.iterdir()} - {"vendored.json", "LICENSES.txt"}
    assert present == set(recorded) and set(LIBRARIES) <= present
    licences = folder.joinpath("LICENSES.txt").read_text(encoding="utf-8")
    for name, each in recorded.items():
        assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() == each["sha256"], name
        assert each["licence"] and f"==== {each['package']}" in licences
        assert "</script" not in folder.joinpath(name).read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(("module", "package"), [("jinja2", "jinja2"), ("py_mini_racer", "mini-racer")])
def test_a_missing_package_is_named_with_its_cure(
    compiled: hqc.Compiled, module: str, package: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs {package}.*pip install 'hqc-compiler\[report\]'"):
        compiled.report(tmp_path / "net.html", measure=False)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reported_net.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.SELU())\n"
    )
    arguments = ["report", "reported_net.py:net", "--march", "bernoulli2", "--input", "1,3,8,8", "-o", "r.html"]
    result = CliRunner().invoke(main, [*arguments, "--no-measure"])
    assert result.exit_code == 0, result.output
    assert [row["op"] for row in held(Path("r.html").read_text(encoding="utf-8"))["operations"]] == ["conv2d", "selu"]
