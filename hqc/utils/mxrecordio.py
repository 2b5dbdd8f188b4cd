"""RecordIO files of Apache MXNet: records of bytes behind each other, with an index of keys and positions beside them.

Format (public): per record the magic number 0xced7230a and a word with 3 bits of continuation flag and 29 bits of length, both
little-endian, then the bytes padded to a multiple of 4. The index is text: key, tab, position.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import TracebackType
from typing import IO

from hqc.checked import explained
from hqc.errors import InputError
from hqc.files import write_file

_MAGIC = 0xCED7230A
_LENGTH = (1 << 29) - 1


@explained
class MXRecordIO:
    """Records one after the other. `flag`: "r" or "w"."""

    def __init__(self, uri: str | Path, flag: str) -> None:
        if flag not in ("r", "w"):
            raise InputError(f"a record file is opened with flag 'r' or 'w', got {flag!r}")
        self.uri, self.flag = Path(uri), flag
        self.record: IO[bytes] | None = None
        self.open()

    def open(self) -> None:
        """Open the file, at its start. What is written is in memory until `close`, so that a file is there whole or not at all."""
        if self.flag == "w":
            self.record = io.BytesIO()
            return
        try:
            self.record = self.uri.open("rb")
        except OSError as error:
            raise InputError(f"cannot open the record file {self.uri}: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.record, io.BytesIO):
            write_file(self.uri, self.record.getvalue())
        if self.record is not None:
            self.record.close()
            self.record = None

    def reset(self) -> None:
        """Back to the first record (when writing: to an empty file)."""
        self.close()
        self.open()

    def tell(self) -> int:
        """Position of the next record."""
        return self._file("r", "w").tell()

    def write(self, buf: bytes) -> None:
        """Append a record."""
        if len(buf) > _LENGTH:
            raise InputError(f"a record holds at most {_LENGTH} bytes, got {len(buf)}")
        self._file("w").write(struct.pack("<II", _MAGIC, len(buf)) + buf + bytes(-len(buf) % 4))

    def read(self) -> bytes | None:
        """The next record; None at the end."""
        parts: list[bytes] = []
        while True:
            head = self._file("r").read(8)
            if not head and not parts:
                return None
            magic, word = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
            length = word & _LENGTH
            data = self._file("r").read(length + -length % 4)
            if magic != _MAGIC or len(data) < length:
                raise InputError(f"{self.uri} is no record file, or it is cut off")
            parts.append(data[:length])
            if word >> 29 in (0, 3):  # a whole record, or the last part of one
                return struct.pack("<I", _MAGIC).join(parts)

    def _file(self, *flags: str) -> IO[bytes]:
        if self.record is None or self.flag not in flags:
            raise InputError(f"{self.uri} is not open for this (opened with flag {self.flag!r})")
        return self.record

    def __enter__(self) -> MXRecordIO:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@explained
class MXIndexedRecordIO(MXRecordIO):
    """Records by key. `idx_path`: the index; `key_type`: what keys are."""

    def __init__(self, idx_path: str | Path, uri: str | Path, flag: str, key_type: type = int) -> None:
        self.idx_path, self.key_type = Path(idx_path), key_type
        self.idx: dict[object, int] = {}
        self.keys: list[object] = []
        super().__init__(uri, flag)

    def open(self) -> None:
        super().open()
        self.idx, self.keys = {}, []
        if self.flag == "r":
            try:
                lines = self.idx_path.read_text().splitlines()
            except OSError as error:
                raise InputError(f"cannot open the index {self.idx_path}: {error.strerror}") from None
            for line in lines:
                key, position = line.split("\t")
                self._add(self.key_type(key), int(position))

    def close(self) -> None:
        if self.record is not None and self.flag == "w":
            write_file(self.idx_path, "".join(f"{key}\t{position}\n" for key, position in self.idx.items()).encode())
        super().close()

    def read_idx(self, idx: object) -> bytes | None:
        """The record of a key."""
        if idx not in self.idx:
            raise InputError(f"{self.idx_path} has no key {idx!r}")
        self._file("r").seek(self.idx[idx])
        return self.read()

    def write_idx(self, idx: object, buf: bytes) -> None:
        """Append a record under a key."""
        self._add(self.key_type(idx), self.tell())
        self.write(buf)

    def _add(self, key: object, position: int) -> None:
        self.idx[key] = position
        self.keys.append(key)
