"""What the package index calls this project: `hqc` there is another one, so that the distribution has a name of its own."""

from __future__ import annotations

DISTRIBUTION = "hqc-compiler"
"""The import name stays `hqc`."""


def install_command(extra: str) -> str:
    """What a user types to get an optional part, e.g. `pip install 'hqc-compiler[fast]'`."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
