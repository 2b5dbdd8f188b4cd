"""The one writer: whole files or none, links and devices stay what they are, writers do not disturb each other, no leftovers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hqc
from hqc.errors import ExportError, InputError
from hqc.file_sets import RECORD
from hqc.files import settle, write_file, write_files
from hqc.ir import Graph, load, parse, save


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.bin", tmp_path / "link.bin"
    real.write_bytes(b"old")
    link.symlink_to(real)
    assert write_file(link, b"new") == real
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_a_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_file(pipe, b"through")
    reader.join()
    assert read == [b"through"] and pipe.is_fifo()


def test_the_null_device_stays_a_device() -> None:
    write_file("/dev/null", b"gone")
    assert Path("/dev/null").is_char_device()


def test_the_mode_of_a_replaced_file_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    file.chmod(0o640)
    write_file(file, b"x")
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "empty file name"),
        ("a\0b", "NUL"),
        ("\ud800", "not valid Unicode"),
        ("n" * 300, "name too long"),
        ("missing/file", "No such file"),
        (".", "it is a folder"),
        ("file/below", "is not a folder"),
    ],
)
def test_names_that_cannot_be_written_are_refused_in_one_sentence(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(ExportError, match=f"(?i)^cannot write .*{message}") as caught:
        write_file(path, b"x", error=ExportError)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_of_files_that_belong_together_none_appears_when_one_cannot_or_the_check_refuses(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "folder"
    second.mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        write_files({first: b"1", second: b"2"})

    def refuse(staged: list[Path]) -> None:
        assert [path.read_bytes() for path in staged] == [b"1", b"3"]
        raise ExportError("no")

    with pytest.raises(ExportError, match="no"):
        write_files({first: b"1", tmp_path / "b": b"3"}, check=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_writers_in_many_threads_leave_one_whole_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    contents = [bytes([65 + k]) * 200_000 for k in range(8)]
    threads = [threading.Thread(target=lambda data=data: [write_file(file, data) for _ in range(10)]) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not file.exists() or file.read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


KILLED = """
import sys
from hqc.files import write_file
while True:
    for letter in b"AB":
        write_file(sys.argv[1], bytes([letter]) * 3_000_000)
"""


def test_a_kill_leaves_a_whole_file_and_the_next_write_removes_what_the_dead_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)])
        while not file.exists():
            time.sleep(0.005)
        time.sleep(0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = file.read_bytes()
        assert len(data) == 3_000_000 and len(set(data)) == 1
    write_file(file, b"end")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _graph(seed: int) -> Graph:
    return parse(f"input %x: f32[1,4,8,8]\nparam @w = #random({seed}, [8,4,3,3])\n%y = conv2d(%x, @w)\noutput %y")


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_saved_graph_can_be_read_wherever_saving_a_newer_one_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    path, old, new = tmp_path / "net.hqc", _graph(1), _graph(2)
    save(old, path)
    renames = 0
    replace = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        nonlocal renames
        if renames == stop_after:
            raise KeyboardInterrupt
        renames += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        save(new, path)
    monkeypatch.undo()
    assert load(path) == (old if stop_after == 1 else new)
    save(new, path)
    assert load(path) == new
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.hqc", "net.safetensors"]


def test_only_the_writer_opens_files_for_writing() -> None:
    """Every other room hands its bytes to hqc.files; the commands that regenerate the project's own pages are not users' files."""
    root = Path(hqc.__file__).parent
    own_pages = {"ir/reference.py", "analysis/op_support.py", "analysis/pass_reference.py"}
    writing = re.compile(
        r"\.write_(?:text|bytes)\(|open\([^)]*[\"'][wxa]b?[\"']|os\.replace\(|\.replace\(target\)|np\.savez?\((?!buffer)"
    )
    found = {
        name
        for path in root.rglob("*.py")
        if writing.search(path.read_text()) and (name := path.relative_to(root).as_posix()) not in own_pages
    }
    assert found == {"files.py"}


def test_bars_of_the_benchmark_reduced() -> None:
    """`python -m benchmarks.bench_files`: killed writers, pairs of writers, compiles beside a served model."""
    from benchmarks import bench_files

    assert bench_files.kills(5) == []
    assert bench_files.pairs(5, processes=False) == []
    assert bench_files.compiles(1, at_once=3) == []


def _stopped(point: int, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> bool:
    """Run `call`, stopped before its `point`-th change of the folder; True where it was stopped."""
    changes = 0

    def counted(method: Callable[..., object]) -> Callable[..., object]:
        def changing(self: Path, *args: object, **kwargs: object) -> object:
            nonlocal changes
            if changes == point:
                raise KeyboardInterrupt
            changes += 1
            return method(self, *args, **kwargs)

        return changing

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            call()
        except KeyboardInterrupt:
            return True
    return False


def _shown(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".tmp"}


def test_wherever_the_writing_of_a_set_stops_the_next_reader_finds_the_old_or_the_new_set_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hqc.files, "_alive", lambda pid: False)  # who was killed is dead
    seen = set()
    for point in range(20):
        folder = tmp_path / str(point)
        folder.mkdir()
        old = {"a.x": b"old", "b.x": b"old", "c.x": b"old"}
        new = {"a.x": b"new", "b.x": b"new"}
        write_files({folder / name: data for name, data in old.items()})
        stopped = _stopped(
            point,
            monkeypatch,
            lambda: write_files({folder / name: data for name, data in new.items()}, instead_of=lambda: [folder / "c.x"]),  # noqa: B023
        )
        settle(folder / "a.x")
        found = _shown(folder)
        assert found == (old if found["a.x"] == b"old" else new)
        seen.add((stopped, found["a.x"]))
        write_files({folder / name: data for name, data in new.items()}, instead_of=lambda: [folder / "c.x"])  # noqa: B023
        write_file(folder / "a.x", b"alone")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.x": b"alone", "b.x": b"new"}
    assert seen == {(True, b"old"), (True, b"new"), (False, b"new")}


def test_a_set_that_is_completed_can_be_stopped_again_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_files({first: b"old", second: b"old"})
    assert _stopped(2, monkeypatch, lambda: write_files({first: b"new", second: b"new"}))
    assert _shown(tmp_path).keys() == {"a", RECORD}  # a reader that knows no records misses a file, and never mixes two
    for point in range(10):
        _stopped(point, monkeypatch, lambda: settle(first))
    assert _shown(tmp_path) == {"a": b"new", "b": b"new"}


@pytest.mark.parametrize(
    "record",
    [
        b"nonsense", b"{}", b"[]", b'{"rename": 3, "remove": 3}', b'{"rename": [["a"]], "remove": []}',
        b'{"rename": [[".x.tmp", "../out"]], "remove": []}', b'{"rename": [["kept", "out"]], "remove": []}',
        b'{"rename": [[".x.tmp", "out"]], "remove": ["kept"]}', b'{"rename": [], "remove": ["kept"]}',
        b'{"rename": [[".x.tmp", "out"]], "remove": ["/etc/kept"]}', b'{"rename": [[".x.tmp", "out.a"]], "remove": ["kept"]}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_record_that_is_not_of_ours_does_nothing(tmp_path: Path, record: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / RECORD).write_bytes(record)
    for name in ("kept", ".x.tmp"):
        (folder / name).write_bytes(b"kept")
    settle(folder / "kept")
    assert (folder / "kept").read_bytes() == b"kept" and [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_readers_of_graphs_and_of_onnx_files_complete_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    text = str(_graph(1))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])], [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
    )  # fmt: skip
    save(_graph(1), tmp_path / "net.hqc")
    sidecar = (tmp_path / "net.safetensors").read_bytes()
    for name in ("net.hqc", "net.safetensors"):
        (tmp_path / name).unlink()
    files = {
        tmp_path / "net.safetensors": sidecar,
        tmp_path / "net.hqc": text.encode(),
        tmp_path / "net.onnx": model.SerializeToString(),
    }
    for reader in (lambda: load(tmp_path / "net.hqc"), lambda: hqc.lower(tmp_path / "net.onnx")):
        assert _stopped(1, monkeypatch, lambda: write_files(files))
        assert not (tmp_path / "net.hqc").exists()
        reader()
        assert _shown(tmp_path) == {path.name: data for path, data in files.items()}
        for path in files:
            path.unlink()
