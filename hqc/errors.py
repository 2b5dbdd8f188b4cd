"""The exceptions hqc raises. Each carries one sentence about the user's model, input or file."""

from __future__ import annotations

from typing import Any

from hqc.language import in_force, said


def printable(text: str, *, lines: bool = True) -> str:
    """`text` with everything escaped that a terminal would obey instead of showing (`\\x1b`); ends of lines and tabs stay with `lines`.

    Names come from models and files: a module called `\\x1b[2J` must not clear the screen of who reads about it.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text)


FAULTS = (Exception, SystemExit)
"""What code that hqc calls may raise, the user's and what runs it: a script may have left an `exit()` in forward."""


def first_line(error: BaseException) -> str:
    """The first line of what `error` says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class HqcError(Exception):
    """Base of every error that hqc raises on purpose; `str(error)` is the sentence for the user, in English.

    Where another language is in force (`hqc.language`), a traceback shows the sentence in it too, as a note (from Python 3.11 on).
    """

    def __init__(self, message: object = "") -> None:
        sentence = printable(str(message))
        super().__init__(sentence)
        if in_force() != "en":
            self.__notes__ = [said(sentence)]


class TraceError(HqcError):
    """The model's Python code cannot be traced into a graph."""


class LoweringError(HqcError):
    """A traced operation has no counterpart in the IR, or has arguments the IR cannot express."""


class ShapeError(HqcError):
    """Shapes or dtypes of operands do not fit an operation, or an input has the wrong shape."""


class EmptyResultError(ShapeError):
    """The result of an operation would have no elements."""


class MarchError(HqcError):
    """Unknown march, march not set, or a feature the march lacks."""


class AbsentNameError(MarchError, AttributeError):
    """A name of the reference that hqc does not have: of another chip generation, or of the vendor's compiler."""


class OverrideError(HqcError):
    """A `hybrid_dict` entry or another placement override cannot be obeyed or matches nothing."""


class SupportError(HqcError):
    """Operations that must run on the BPU cannot; the message lists all of them with reasons."""


class QConfigError(HqcError):
    """A qconfig is missing, unknown, or asks for what the march cannot do."""


class CalibrationError(HqcError):
    """Calibration data is empty or not finite, or a model is converted before it was calibrated."""


class QuantizationError(HqcError):
    """Scales are missing, conflict, or cannot be expressed in the chip's integer arithmetic."""


class RegistryError(HqcError):
    """Something is registered twice, or asked for under a key that nothing has."""


class PassError(HqcError):
    """A pass, its options, or the order of passes is wrong."""


class PlanError(PassError):
    """The plan that a prepared model was made with does not fit the graph that its code gives now. `what`: in what."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the plan made at prepare time does not fit this model: {what}; the model was changed after prepare, prepare it again"
        )
        self.what = what


class VerificationError(PassError):
    """The IR breaks a rule of its stage."""


class CompileError(HqcError):
    """The graph cannot become a program of a back end."""


class ExportError(HqcError):
    """An ONNX file cannot be written, or does not compute what the model computes."""


class InputError(HqcError):
    """An argument of a public call is of the wrong kind or value, or a path is not usable."""


class ParseError(HqcError):
    """IR or pipeline text cannot be read.

    Attributes: `line` and `column` (both from 1), `text` (the offending line).
    """

    def __init__(self, message: str, *, line: int, column: int, text: str, file: str = "<text>") -> None:
        self.line, self.column, self.text, self.file, self._message = line, column, text, file, message
        caret = " " * (column - 1) + "^"
        super().__init__(f"{file}:{line}:{column}: {message}\n  {text}\n  {caret}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel from worker processes."""
        arguments = {"line": self.line, "column": self.column, "text": self.text, "file": self.file}
        return _parse_error, (self._message, arguments)


def _parse_error(message: str, arguments: dict[str, Any]) -> ParseError:
    return ParseError(message, **arguments)
