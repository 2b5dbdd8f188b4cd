"""The one writer of the project: every file that hqc leaves behind is whole, where the user said, or not there.

A file is written under a temporary name in its target's folder, flushed to the disk and renamed over the target, so readers see the
old file or the new one. Links are followed; what is no regular file (a device, a pipe) is written through, never replaced.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hqc import file_sets
from hqc.errors import HqcError, InputError, printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_THREADS = threading.RLock()
_HELD: set[Path] = set()
"""Folders that this process holds; changed by who has `_THREADS`."""
PathLike = str | os.PathLike[str]
Contents = bytes | Sequence[bytes | memoryview]
"""What a file shall hold: bytes, or pieces that are written one after the other."""


def write_file(path: PathLike, data: bytes, *, error: type[HqcError] = InputError) -> Path:
    """Write `data` to `path`, whole or not at all; returns the path that was written. Raises `error` in one sentence."""
    return write_files({Path(path_text(path, error=error, verb="write")): data}, error=error)[0]


def write_files(
    contents: Mapping[Path, Contents] | Mapping[PathLike, Contents] | Mapping[Path, bytes] | Mapping[PathLike, bytes],
    *,
    error: type[HqcError] = InputError,
    check: Callable[[list[Path]], None] | None = None,
    instead_of: Callable[[], Iterable[Path]] = tuple,
) -> list[Path]:
    """Write several files of one folder that belong together: all or, as far as hqc's readers and writers can tell, none.

    All are on the disk under temporary names before a record of what is to be renamed is put beside them (`hqc.file_sets`); from then
    on the new set counts, and who stops the program in between leaves the rest of the renaming to the next reader or writer. Until
    then a program that knows no records sees a set that lacks a file, never one whose files contradict each other: a later file that
    changes is removed before the first one does. Writers of the same folder wait for each other. `check` gets the temporary paths (in
    the order given) and may refuse by raising: nothing has changed then. `instead_of`: says, once no other writer is about, which files
    of an older set go.
    """
    targets = [_target(path, error) for path in contents]
    for target in targets:
        check_file_target(target, error=error)
    with exclusive(targets[0].parent) if len(targets) > 1 else contextlib.nullcontext():
        settle(targets[0])
        return _written(targets, contents, error, check, set(instead_of()) - set(targets))


def _written(
    targets: list[Path],
    contents: Mapping[Any, Contents],
    error: type[HqcError],
    check: Callable[[list[Path]], None] | None,
    obsolete: set[Path],
) -> list[Path]:
    staged: list[Path] = []
    try:
        for target, data in zip(targets, contents.values(), strict=True):
            staged.append(_stage(target, data, error))
        if check is not None:
            check(staged)
        for temporary, target in [*zip(staged, targets, strict=True)][1:]:
            if target.is_file() and not filecmp.cmp(temporary, target, shallow=False):
                obsolete.add(target)
        for temporary, target, data in zip(staged, targets, contents.values(), strict=True):
            if temporary == target:  # a device or a pipe
                with _said(target, error), open(target, "wb") as file:
                    file.writelines(_pieces(data))
        renames = [(temporary, target) for temporary, target in zip(staged, targets, strict=True) if temporary != target]
        with _said(targets[0], error):
            promise = file_sets.record(renames, sorted(obsolete)) if len(renames) > 1 else None
            if promise is not None:
                _exchanged(renames[0][1].parent, promise, error)
            else:  # one file, or a set whose links lead into several folders
                for path in sorted(obsolete):
                    path.unlink(missing_ok=True)
                for temporary, target in renames:
                    temporary.replace(target)
    finally:
        for temporary, target in zip(staged, targets, strict=False):
            if temporary != target and not file_sets.recorded(temporary):
                with contextlib.suppress(OSError):  # renamed already, or its folder is gone
                    temporary.unlink()
    return targets


def _exchanged(folder: Path, promise: bytes, error: type[HqcError]) -> None:
    """The old set goes and the new one comes: from the record on, whatever happens."""
    record = folder / file_sets.RECORD
    staged = _stage(record, promise, error)
    try:
        staged.replace(record)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    file_sets.complete(folder)


def settle(path: PathLike) -> None:
    """Finish what a writer that was killed left of an exchange of sets in the folder of `path`; what reads a file of a set calls it."""
    folder = Path(path).resolve().parent
    if (folder / file_sets.RECORD).exists():
        with exclusive(folder), contextlib.suppress(OSError):  # a folder that may not be written
            file_sets.complete(folder)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One writer at a time among the threads and processes that write sets of files into `folder`.

    A lock of the folder itself, which leaves nothing behind and which the system takes back from the dead; where the system or the
    file system has none, threads of this process wait for each other all the same.
    """
    with _THREADS, contextlib.ExitStack() as stack:
        if fcntl is not None and folder not in _HELD:  # a second lock of ours would wait for the first
            _HELD.add(folder)
            stack.callback(_HELD.discard, folder)
            with contextlib.suppress(OSError):  # a file system without locks
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def check_file_target(path: PathLike, *, error: type[HqcError] = InputError) -> None:
    """Raise `error` now, rather than after minutes of work, when the file `path` cannot be written. Creates nothing."""
    target = _target(path, error)
    if target.is_dir():
        raise error(f"cannot write {_shown(path)}: it is a folder, give the name of a file in it")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise error(f"cannot write {_shown(path)}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise error(f"cannot write {_shown(path)}: permission denied")


def make_parent(path: PathLike, *, error: type[HqcError] = InputError) -> None:
    """Create the folder that `path` lies in, where it is missing."""
    target = _target(path, error)
    with _said(target, error):
        target.parent.mkdir(parents=True, exist_ok=True)


def path_text(path: object, *, error: type[HqcError] = InputError, verb: str = "read") -> str:
    """`path` as text; `error` for what is no path, and for names that no system takes. `verb`: what cannot be done to it then."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise error(f"cannot {verb} a file: its path is a text or a Path, got a {type(path).__name__}")
    if not text.strip():
        raise error(f"cannot {verb} an empty file name; give the name of a file")
    if "\0" in text:
        raise error(f"cannot {verb} {_shown(text)}: the name holds a NUL character")
    try:
        text.encode("utf-8")
        Path(text).is_dir()  # asks the system, which refuses names that are too long
    except OSError as problem:
        raise error(f"cannot {verb} {_shown(text)}: {problem.strerror or problem}") from None
    except UnicodeEncodeError:
        raise error(f"cannot {verb} {_shown(text)}: the name is not valid Unicode") from None
    return text


def opened_or_path(file: Any, verb: Literal["read", "write"]) -> Any:
    """A path as text, a file that is open to `verb` as it is; `InputError` for anything else."""
    if isinstance(file, (str, os.PathLike)):
        return path_text(file, verb=verb)
    if not callable(getattr(file, verb, None)):
        raise InputError(f"a file is named by a path or open to {verb}, got a {type(file).__name__}")
    return file


def read_text(path: PathLike, *, what: str = "text") -> str:
    """The text of a file in UTF-8; `InputError` when it cannot be read."""
    name = path_text(path)
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"cannot read {what} from {_shown(name)}: it is not text in UTF-8") from None
    except (OSError, ValueError) as problem:
        raise InputError(f"cannot read {what} from {_shown(name)}: {getattr(problem, 'strerror', None) or problem}") from None


def _target(path: PathLike, error: type[HqcError]) -> Path:
    """The path behind all links, absolute; names that no system takes are refused here."""
    text = path_text(path, error=error, verb="write")
    try:
        target = Path(text).resolve()
        target.is_dir()  # asks the system, which refuses names that are too long
        return target
    except (OSError, RuntimeError) as problem:  # a loop of links
        raise error(f"cannot write {_shown(path)}: {getattr(problem, 'strerror', None) or problem}") from None


def _shown(path: PathLike) -> str:
    """The path as a terminal can print it, cut where it is endless."""
    text = printable(os.fspath(path))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_special(target: Path) -> bool:
    """True for what exists and is no regular file: a device, a pipe, a socket."""
    return target.exists() and not target.is_file()


def _pieces(data: Contents) -> Sequence[bytes | memoryview]:
    return [data] if isinstance(data, bytes) else data


def _stage(target: Path, data: Contents, error: type[HqcError]) -> Path:
    """`data` on the disk under a name of this process alone, beside `target`, with the mode that `target` has or would get."""
    if _is_special(target):
        return target  # written through at the end; nothing is staged
    temporary = target.with_name(_temporary_name(target.name))
    with _said(target, error):
        _remove_leftovers(target)
        try:
            with open(temporary, "xb") as file:
                file.writelines(_pieces(data))
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o7777)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return temporary


def _temporary_name(name: str) -> str:
    """Unique over threads, processes, machines and containers that share the folder; short enough where the target's name is."""
    return f".{name[:100]}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"


def _remove_leftovers(target: Path) -> None:
    """Remove temporaries of this target that processes of this machine left when they were killed."""
    pattern = re.compile(rf"\.{re.escape(target.name[:100])}\.{_host()}-(\d+)-[0-9a-f]{{8}}\.tmp")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match.group(1))):
            with contextlib.suppress(OSError):  # another process removed it first
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives and belongs to somebody else
        return True
    return True


@contextlib.contextmanager
def _said(target: Path, error: type[HqcError]) -> Iterator[None]:
    """The system's refusals as one sentence."""
    try:
        yield
    except OSError as problem:
        raise error(f"cannot write {_shown(target)}: {problem.strerror or problem}") from None
