"""The one writer of the project: every file that hqc leaves behind is whole, where the user said, or not there.

A file is written under a temporary name in its target's folder, flushed to the disk and renamed over the target, so readers see the
old file or the new one. Links are followed; what is no regular file (a device, a pipe) is written through, never replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hqc.errors import HqcError, InputError

PathLike = str | os.PathLike[str]
Contents = bytes | Sequence[bytes | memoryview]
"""What a file shall hold: bytes, or pieces that are written one after the other."""


def write_file(path: PathLike, data: bytes, *, error: type[HqcError] = InputError) -> Path:
    """Write `data` to `path`, whole or not at all; returns the path that was written. Raises `error` in one sentence."""
    return write_files({path: data}, error=error)[0]


def write_files(
    contents: Mapping[Path, Contents] | Mapping[PathLike, Contents] | Mapping[Path, bytes] | Mapping[PathLike, bytes],
    *,
    error: type[HqcError] = InputError,
    check: Callable[[list[Path]], None] | None = None,
) -> list[Path]:
    """Write several files that belong together: all are on the disk under temporary names before the first one is renamed.

    They are renamed in the order given, so what others refer to comes first. `check` gets the temporary paths (in the same order)
    and may refuse by raising: nothing has changed then.
    """
    targets = [_target(path, error) for path in contents]
    for target in targets:
        check_file_target(target, error=error)
    staged: list[Path] = []
    try:
        for target, data in zip(targets, contents.values(), strict=True):
            staged.append(_stage(target, data, error))
        if check is not None:
            check(staged)
        for temporary, target, data in zip(staged, targets, contents.values(), strict=True):
            with _said(target, error):
                if _is_special(target):
                    with open(target, "wb") as file:
                        file.writelines(_pieces(data))
                else:
                    temporary.replace(target)
    finally:
        for temporary, target in zip(staged, targets, strict=False):
            if temporary != target:
                with contextlib.suppress(OSError):  # renamed already, or its folder is gone
                    temporary.unlink()
    return targets


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


def _target(path: PathLike, error: type[HqcError]) -> Path:
    """The path behind all links, absolute; names that no system takes are refused here."""
    text = os.fspath(path)
    if not text or not text.strip():
        raise error("cannot write to an empty file name; give the name of a file")
    if "\0" in text:
        raise error(f"cannot write {_shown(path)}: the name holds a NUL character")
    try:
        text.encode("utf-8")
        target = Path(text).resolve()
        target.is_dir()  # asks the system, which refuses names that are too long
        return target
    except UnicodeEncodeError:
        raise error(f"cannot write {_shown(path)}: the name is not valid Unicode") from None
    except (OSError, RuntimeError) as problem:  # a loop of links
        raise error(f"cannot write {_shown(path)}: {getattr(problem, 'strerror', None) or problem}") from None


def _shown(path: PathLike) -> str:
    """The path as a terminal can print it, cut where it is endless."""
    text = os.fspath(path)
    printable = text if text.isprintable() else ascii(text)
    return printable if len(printable) <= 200 else f"{printable[:200]}..."


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
