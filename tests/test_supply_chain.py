"""What hqc brings along: licences of everything it needs at run time, and pins for what it names."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from tools.pins import locked, pins

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("fast", "report", "images", "demo", "workers")
"""The extras that users install; the others are tools of this repository."""
ALLOWED = re.compile(
    r"MIT|BSD|Apache|Python Software Foundation|PSF|ISC|Zlib|0BSD|CC0|Unlicense|MPL|HPND|Mozilla|Historical Permission",
    re.IGNORECASE,
)
UNLOCKED = {"torch", "playwright"}
"""Pins that `make` does not install, or that are builds for a machine."""
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


def test_the_lock_has_a_hash_for_every_file_and_says_what_the_constraints_say() -> None:
    lock, constraints = ([*pins((ROOT / name).read_text())] for name in ("requirements.lock", "constraints.txt"))
    assert all(pin.hashes for pin in lock) and "torch" not in {pin.name for pin in lock}
    held = {(pin.name, pin.version) for pin in lock}
    assert {(pin.name, pin.version) for pin in constraints if pin.name not in UNLOCKED} <= held
    named = {_name(each) for extra in ("dev", *EXTRAS, "docs") for each in PROJECT["optional-dependencies"][extra]} | {
        *_named()
    }
    assert named - {name for name, _ in held} == {"torch", "hqc-compiler"}


def test_the_lock_covers_everything_that_is_installed_because_of_us() -> None:
    lock = {pin.name for pin in pins((ROOT / "requirements.lock").read_text())}
    assert {name for name in _needed() if not name.startswith(RUNTIMES)} - lock == {"torch"}


def test_the_bill_of_materials_has_what_is_locked() -> None:
    pytest.importorskip("cyclonedx", reason="a tool of this repository")
    from cyclonedx.output.json import JsonV1Dot6

    from tools.sbom import bill

    bom = json.loads(JsonV1Dot6(bill()).output_as_string())
    assert bom["specVersion"] == "1.6" and bom["metadata"]["component"]["name"] == "hqc-compiler"
    components = {each["purl"]: {item["content"] for item in each.get("hashes", ())} for each in bom["components"]}
    assert components == {f"pkg:pypi/{pin.name}@{pin.version}": {*pin.hashes} for pin in locked()}
    assert "pkg:pypi/torch@2.13.0" in components
    dependencies = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert len(dependencies["hqc-compiler"]) == len(components)


def test_everything_that_is_named_is_pinned() -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert [name for name in _named() if name not in pinned] == []
