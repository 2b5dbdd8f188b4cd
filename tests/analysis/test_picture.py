"""Pictures: every operation is in them once, folded modules hide no CPU operation, and other people's viewers get what they read."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import hqc
from hqc.analysis.picture import Picture, dot_text, draw, picture_of, svg
from hqc.analysis.picture.layout import laid_out
from hqc.cli import main
from hqc.errors import InputError
from hqc.ir import Graph, parse
from hqc.metrics.placement import placement_report

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.SELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv2(self.conv1(x)) + x)


class Net(nn.Module):
    """BPU and CPU operations in the same modules, so that folding has something to get wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage = nn.Conv2d(3, 4, 3), nn.Sequential(Block(), Block(), Block())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.stem(x)
        return self.stage(y), torch.selu(y)


@pytest.fixture(scope="module")
def planned() -> Graph:
    return hqc.explain(Net(), X, march="bayes").graph


@pytest.fixture(scope="module")
def compiled() -> hqc.Compiled:
    return hqc.compile(Net(), X, march="bayes", calibration_data=[X])


def reachable_from_itself(picture: Picture, owners: list[str]) -> set[str]:
    import networkx as nx

    graph = nx.DiGraph((owners[a], owners[b]) for a, b, _ in picture.edges if owners[a] != owners[b])
    return {name for group in nx.strongly_connected_components(graph) if len(group) > 1 for name in group}


def test_every_operation_is_one_box_of_the_kind_of_its_device(planned: Graph) -> None:
    picture = picture_of(planned)
    drawn = {box.name: box.kind for box in picture.boxes if box.kind in ("bpu", "cpu")}
    assert drawn == {row.name: row.device for row in placement_report(planned).rows}
    assert {"input", "output", "boundary"} <= {box.kind for box in picture.boxes}


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_folding_keeps_every_edge_hides_no_cpu_operation_and_makes_no_cycle(planned: Graph, depth: int | None) -> None:
    picture = picture_of(planned)
    folded = picture.folded_at(depth)
    owners = picture.owners(folded)
    for box, key in zip(picture.boxes, owners, strict=True):
        shown = picture.shown(key)
        assert (shown.kind, shown.subgraph) == (box.kind, box.subgraph)
    assert reachable_from_itself(picture, owners) == set()
    edges = {(owners[a], owners[b]) for a, b, _ in picture.edges if owners[a] != owners[b]}
    text = dot_text(picture, folded)
    assert all(f"{a}->{b} " in text for a, b in edges) and text.count("->") == len(edges)
    if depth == 1:
        assert {picture.shown(key).title for key in owners if key.startswith("g")} == {"stage"}


def test_modules_of_onnx_files_fold_too() -> None:
    names = ["/stage/stage.0/a/Conv", "/stage/stage.0/b/Conv", "/head/Conv"]
    nodes = "".join(
        f'  %{i} = relu(%{i - 1 if i else "x"}) cpu loc("{name}:relu#0" "net.onnx:{name}")\n' for i, name in enumerate(names)
    )
    graph = parse(f"graph @net march=bayes stage=partitioned {{\n  input %x: f32[1,2]\n{nodes}  output %2\n}}\n")
    picture = picture_of(graph)
    assert "stage" in picture.modules and [picture.shown(key).title for key in picture.owners({"stage"})][1:3] == [
        "stage",
        "stage",
    ]


def test_a_large_picture_starts_folded() -> None:
    torch.manual_seed(0)
    many = nn.Sequential(*(nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(10))) for _ in range(20)))
    picture = picture_of(hqc.explain(many, torch.rand(1, 1, 4, 4), march="bayes").graph)
    folded = picture.comfortable()
    assert len(folded) == 20 and len(set(picture.owners(folded))) < 30
    assert picture_of(hqc.explain(Net(), X, march="bayes").graph).comfortable() == frozenset()


def test_svg_holds_boxes_subgraphs_and_scales(compiled: hqc.Compiled, tmp_path: Path) -> None:
    pytest.importorskip("py_mini_racer", reason="the extra `report` is not installed")
    graph = compiled.graph
    tree = ET.parse(draw(graph, tmp_path / "net.svg"))
    classes = [node.get("class", "") for node in tree.iter("{http://www.w3.org/2000/svg}g")]
    totals = compiled.placement.totals
    assert (classes.count("node bpu"), classes.count("node cpu")) == (totals.bpu_nodes, totals.cpu_nodes)
    assert classes.count("cluster subgraph") == totals.subgraphs
    text = " ".join(tree.getroot().itertext())
    assert "scale" in text and "bytes" in text and "stage.0.conv1" in text


def test_a_package_that_the_system_cannot_load_is_one_sentence(compiled: hqc.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    racer = pytest.importorskip("py_mini_racer", reason="the extra `report` is not installed")

    def broken() -> None:
        raise OSError("libm.so.6: version `GLIBC_2.27' not found")

    monkeypatch.setattr(racer, "MiniRacer", broken)
    with pytest.raises(InputError, match="cannot load it: libm"):
        svg(compiled.graph)


def test_a_picture_says_what_is_no_latin() -> None:
    pytest.importorskip("py_mini_racer", reason="the extra `report` is not installed")
    assert "检测头 ✓" in laid_out('digraph { a [label="检测头 ✓"] }')


def test_pictures_are_drawn_while_an_event_loop_runs_as_in_a_notebook() -> None:
    pytest.importorskip("py_mini_racer", reason="the extra `report` is not installed")

    async def cell() -> str:
        return laid_out("digraph { a -> b }")

    assert "<svg" in asyncio.run(cell())


def test_model_explorer_graph_is_closed(compiled: hqc.Compiled, tmp_path: Path) -> None:
    (graph,) = json.loads(draw(compiled.graph, tmp_path / "net.json").read_text())["graphs"]
    names = [node["id"] for node in graph["nodes"]]
    assert len(names) == len(set(names))
    edges = [edge for node in graph["nodes"] for edge in node["incomingEdges"]]
    assert edges and {edge["sourceNodeId"] for edge in edges} <= set(names)
    (act,) = [node for node in graph["nodes"] if node["namespace"] == "stage/1/act"]
    said = {each["key"]: each["value"] for each in act["attrs"]}
    assert said["device"] == "cpu" and "Selu" in said["why"]


@pytest.mark.parametrize("stage", ["planned", "compiled"])
def test_onnx_for_netron_says_where_each_node_runs(stage: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = request.getfixturevalue(stage)
    graph = found if isinstance(found, Graph) else found.graph
    model = onnx.load(draw(graph, tmp_path / "net.onnx"))
    onnx.checker.check_model(model, full_check=True)
    said = [(node.op_type, {each.key: each.value for each in node.metadata_props}) for node in model.graph.node]
    assert all(metadata["device"] == ("cpu" if op == "Selu" else "bpu") for op, metadata in said)
    assert {op for op, _ in said} >= {"Conv", "Selu"} and all("module" in metadata for _, metadata in said)


class Returns(nn.Module):
    """Returns its input, one value twice, a constant, and a value that is called as its input is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.ones(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.selu(x)
        return x, y, y, self.fixed


def test_onnx_for_netron_has_the_outputs_under_the_users_names(tmp_path: Path) -> None:
    from hqc.utils.onnx_helper import export_to_onnx

    hqc.march.set_march("bayes")
    names = ["same", "one", "other", "fixed"]
    export_to_onnx(Returns(), X, tmp_path / "net.onnx", input_names=["image"], output_names=names)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [info.name for info in model.graph.input] == ["image"]
    assert [info.name for info in model.graph.output] == names
    (selu,) = (node for node in model.graph.node if node.op_type == "Selu")
    assert {each.key: each.value for each in selu.metadata_props}["device"] == "cpu"


def test_drawing_changes_nothing(planned: Graph, tmp_path: Path) -> None:
    before = str(planned)
    for suffix in ("dot", "json", "onnx"):
        draw(planned, tmp_path / f"net.{suffix}")
    assert str(planned) == before


def test_bad_requests_are_one_sentence(planned: Graph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.svg, \.dot, \.json, \.onnx, not as \.png"):
        draw(planned, tmp_path / "net.png")
    with pytest.raises(InputError, match="at least 1, got 0"):
        draw(planned, tmp_path / "net.dot", depth=0)
    with pytest.raises(InputError, match="has no device yet"):
        picture_of(hqc.lower(Net(), X))


def test_the_command_draws_with_and_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    Path("drawn_net.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.SELU())\n"
    )
    np.save("data.npy", X.numpy())
    plain = ["draw", "drawn_net.py:net", "--march", "bayes", "--input", "1,3,16,16"]
    for more in (["-o", "a.dot"], ["-o", "b.dot", "--calibration", "data.npy"]):
        result = CliRunner().invoke(main, plain + more)
        assert result.exit_code == 0, result.output
    assert "scale" not in Path("a.dot").read_text() and "scale" in Path("b.dot").read_text()


def test_limits_of_addresses_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """V8 would end the process."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 40, resource.RLIM_INFINITY))
    with pytest.raises(InputError, match=r"reserves 1,536 GiB of addresses .* this process may have 1,024 GiB"):
        laid_out("digraph {a -> b}")
