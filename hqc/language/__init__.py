"""Chinese for what hqc says: errors, reasons, remarks, advice, tables.

Everything is said in English, by f-strings at the places that know what to say, and stays English where programs read it: in exceptions, IR
text, JSON, saved files. A sentence is translated where a person reads it (`said`): the catalogue `zh.json` has the sentence as a
template, and what stands in its places is translated in the same way. So a reason within an error within a table cell needs no code of
its own, and survives pickling, joining and printing as text.

`zh.json` is made from `zh.po` by `python -m tools.messages`, which finds the templates in the sources.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from hqc.language.phrases import Phrases

__all__ = ["LANGUAGES", "VARIABLE", "catalogue", "in_force", "said", "use", "word"]

LANGUAGES = ("en", "zh")
VARIABLE = "HQC_LANG"
"""The environment variable that chooses the language of a process that has not chosen one by `use`."""

_chosen: str | None = None


def use(language: str | None) -> None:
    """Speak `language` (`en` or `zh`) from now on in this process; None: as the environment says.

    `ValueError` for another language.
    """
    global _chosen
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"hqc speaks {' and '.join(LANGUAGES)}, not {language!r}")
    _chosen = language


def in_force() -> str:
    """The language that was chosen, else that of `HQC_LANG`, else English."""
    if _chosen is not None:
        return _chosen
    return "zh" if os.environ.get(VARIABLE, "").lower().startswith("zh") else "en"


@functools.cache
def catalogue() -> dict[str, str]:
    """English template -> Chinese template."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("zh.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def _phrases() -> Phrases:
    return Phrases(catalogue())


def said(text: str, language: str | None = None) -> str:
    """`text`, which hqc made, in `language` (default: the one in force). What the catalogue does not know stays as it is."""
    if (language or in_force()) == "en":
        return text
    return _phrases().said(text)


def word(text: str, language: str | None = None) -> str:
    """`text` that is nobody's name (the head of a column, a title): a single word is translated too."""
    if (language or in_force()) == "en":
        return text
    return _phrases().word(text)
