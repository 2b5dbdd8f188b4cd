"""The versions that this repository is tested with, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LINE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>[^\\]+))?")


@dataclass(frozen=True)
class Pin:
    """A version that is installed where `marker` holds ("" everywhere). `hashes`: SHA-256 of its files, none for what is not locked."""

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()


def pins(text: str) -> list[Pin]:
    """The pins of a requirements or constraints file."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        match = _LINE.match(line.strip())
        if match:
            marker = (match["marker"] or "").partition("--hash")[0].strip()
            name = re.sub(r"[-_.]+", "-", match["name"]).lower()
            found.append(Pin(name, match["version"], marker, tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))))
    return found


def locked() -> list[Pin]:
    """What requirements.lock holds, and torch, which it does not."""
    torch = [pin for pin in pins((ROOT / "constraints.txt").read_text()) if pin.name == "torch"]
    return sorted([*pins((ROOT / "requirements.lock").read_text()), *torch], key=lambda pin: (pin.name, pin.version))
