"""Saving and loading: the bytes come back, files appear whole or not at all, nothing is pickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from hqc.errors import InputError, ParseError
from hqc.ir import Graph, QuantParams, load, parse, save
from hqc.ir.sidecar import SHARED, write_sidecar


def big_graph() -> Graph:
    graph = parse("""
        input %x: f32[1,3,8,8]
        param @w = #random(1, [70,3,3,3])
        param @b: i64[70] = #random(2)
        param @small = [1, 2]
        %y = conv2d(%x, @w)
        output %y, @b, @small
    """)
    graph.value("w").quant = QuantParams(np.linspace(0.1, 1, 70), axis=0)
    return graph


def test_save_and_load_give_an_equal_graph(tmp_path: Path) -> None:
    graph = big_graph()
    save(graph, tmp_path / "net.hqc")
    assert load(tmp_path / "net.hqc") == graph
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.hqc", "net.safetensors"]
    assert len(load_file(tmp_path / "net.safetensors")) == 3  # two parameters and the scales


def test_a_graph_of_small_parameters_needs_no_sidecar(tmp_path: Path) -> None:
    graph = parse("input %x: f32[1]\noutput %x")
    save(graph, tmp_path / "net.hqc")
    assert [path.name for path in tmp_path.iterdir()] == ["net.hqc"]
    assert load(tmp_path / "net.hqc") == graph


def test_dumps_in_one_folder_may_share_a_sidecar(tmp_path: Path) -> None:
    graph = big_graph()
    later = graph.clone()
    later.stage = "supported"
    write_sidecar([graph, later], tmp_path / SHARED)
    for name, dump in (("000-input", graph), ("001-next", later)):
        (tmp_path / f"{name}.hqc").write_text(str(dump))
        assert load(tmp_path / f"{name}.hqc") == dump


def test_a_lost_sidecar_is_one_clear_sentence(tmp_path: Path) -> None:
    save(big_graph(), tmp_path / "net.hqc")
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(ParseError, match=r"net\.hqc:\d+:\d+: the elements of @w\.scale are not in this text"):
        load(tmp_path / "net.hqc")


def test_a_sidecar_of_other_contents_is_refused(tmp_path: Path) -> None:
    graph = big_graph()
    save(graph, tmp_path / "net.hqc")
    data = bytearray((tmp_path / "net.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "net.safetensors").write_bytes(data)
    with pytest.raises(ParseError, match="is not the one this text was written with"):
        load(tmp_path / "net.hqc")


def test_files_that_cannot_be_read_or_written_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read IR text"):
        load(tmp_path / "missing.hqc")
    with pytest.raises(InputError, match="cannot write"):
        save(big_graph(), tmp_path / "no" / "folder" / "net.hqc")
    (tmp_path / "net.hqc").write_text("input %x: f32[1]")
    (tmp_path / "net.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="cannot read parameters"):
        load(tmp_path / "net.hqc")


def test_saving_over_a_graph_leaves_no_temporary_file(tmp_path: Path) -> None:
    save(big_graph(), tmp_path / "net.hqc")
    other = big_graph()
    other.name = "other"
    save(other, tmp_path / "net.hqc")
    assert load(tmp_path / "net.hqc").name == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.hqc", "net.safetensors"]
