"""`Registry`: one entry per key, families imported at the first reading, missing keys named with near ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hqc.errors import CompileError, RegistryError
from hqc.registry import Registry


def test_entries_are_found_in_order_of_registration() -> None:
    table: Registry[str, int] = Registry("number")
    table.add("two", 2)
    table.register("one", "uno", make=len)("x")
    assert (table["two"], table["uno"], table.get("three"), "one" in table, len(table)) == (2, 1, None, True, 3)
    assert list(table) == ["two", "one", "uno"]
    assert table.items() == [("two", 2), ("one", 1), ("uno", 1)]


def test_a_key_is_registered_once() -> None:
    table: Registry[str, int] = Registry("kernel")
    table.add("relu", 1)
    with pytest.raises(RegistryError, match="relu has two entries as kernel"):
        table.register("relu")(2)
    table.put("relu", 3)
    assert table["relu"] == 3


def test_a_missing_key_is_one_sentence_with_near_names() -> None:
    table: Registry[str, int] = Registry("kernel", error=CompileError, entries={"max_pool2d": 1})
    with pytest.raises(CompileError, match=r"there is no kernel for max_pol2d; did you mean max_pool2d\?"):
        table["max_pol2d"]


def test_families_are_imported_at_the_first_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_families"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from hqc.registry import Registry\nTABLE = Registry('thing', families='some_families')\n"
    )
    (package / "beta.py").write_text("from some_families import TABLE\nTABLE.add('b', len(TABLE))\n")
    (package / "alpha.py").write_text("from some_families import TABLE\nTABLE.add('a', 0)\n")
    (package / "_private.py").write_text("raise AssertionError('private modules are not families')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import some_families  # type: ignore[import-not-found]

    assert "some_families.alpha" not in sys.modules
    assert some_families.TABLE.peek("a") is None
    assert some_families.TABLE.items() == [("a", 0), ("b", 1)]  # a family that reads while it registers finds what is there


def test_a_family_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "broken_families"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("raise ImportError('no such thing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    table: Registry[str, int] = Registry("thing", families="broken_families")
    for _ in range(2):
        with pytest.raises(ImportError, match="no such thing"):
            table.load()
