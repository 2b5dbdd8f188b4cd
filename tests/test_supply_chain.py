"""What hqc brings along: licences of everything it needs at run time, and pins for what it names."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("fast", "report", "images", "demo", "workers")
"""The extras that users install; the others are tools of this repository."""
ALLOWED = re.compile(
    r"MIT|BSD|Apache|Python Software Foundation|PSF|ISC|Zlib|0BSD|CC0|Unlicense|MPL|HPND|Mozilla|Historical Permission",
    re.IGNORECASE,
)
RUNTIMES = ("nvidia-", "cuda-", "triton")
"""What a CUDA build of torch brings: drivers' libraries under their vendor's terms, which torch's users accept with it."""


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def _named() -> list[str]:
    """What pyproject.toml names for users."""
    extras = PROJECT["optional-dependencies"]
    return sorted({_name(each) for each in (*PROJECT["dependencies"], *(item for extra in EXTRAS for item in extras[extra]))})


def _needed() -> dict[str, metadata.Distribution]:
    """Everything that is installed because hqc needs it."""
    found: dict[str, metadata.Distribution] = {}
    todo = _named()
    while todo:
        name = todo.pop()
        if name in found or name.startswith(RUNTIMES):
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # a condition on the platform that does not hold here
            continue
        todo += [_name(each) for each in found[name].requires or () if "extra ==" not in each]
    return found


def _licence(distribution: metadata.Distribution) -> str:
    """What a distribution says of its licence, in whichever field it says it."""
    held = distribution.metadata
    classifiers = [each.rpartition("::")[2] for each in held.get_all("Classifier") or () if each.startswith("License ::")]
    return "; ".join(filter(None, [held.get("License-Expression"), *classifiers, (held.get("License") or "")[:200]]))


def test_licences_may_be_combined_with_ours() -> None:
    needed = _needed()
    assert {"numpy", "onnx", "torch", "safetensors", "protobuf"} <= needed.keys()
    odd = {name: _licence(found) for name, found in needed.items() if not ALLOWED.search(_licence(found))}
    assert odd == {}


def test_everything_that_is_named_is_pinned() -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert [name for name in _named() if name not in pinned] == []
