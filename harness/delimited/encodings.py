"""Bytes of a file -> lines of text, in the encoding that the file states or its user names, never in a guessed one.

A byte-order mark states the encoding, and so does the pattern of zero bytes in UTF-16 without a mark. Everything else
is UTF-8, checked strictly, or the encoding that the user names. Gzip is recognised by its first bytes.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_OTHER_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive; save the sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV UTF-8"),
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"$FL2", "an SPSS file; export it as CSV"),
    (b"%PDF", "a PDF; export the table as CSV"),
    (b"{\\rtf", "a rich-text document; save it as plain text"),
    (b"<!DOCTYPE", "a web page; download the file itself"),
    (b"<html", "a web page; download the file itself"),
)
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")
_GZIPPED = b"\x1f\x8b"
_HEAD = 2**16
_BLOCK = 2**20
_CHARACTERS = 2**18
_SUGGESTED = "windows-1252"
_COMMON = ("utf-8", "utf-16", "windows-1252", "latin-1", "mac-roman", "shift_jis", "gb18030", "big5", "euc-kr")


@dataclass(frozen=True)
class TextSource:
    """A file of text.

    Attributes:
        path: a local path or an fsspec URL; may be compressed.
        encoding: of a file that does not state its own; None is UTF-8.
        remedy: how the user names an encoding here, such as "--encoding NAME"; "" where that is not possible.
    """

    path: str
    encoding: str | None = None
    remedy: str = "--encoding NAME"

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.rsplit("/", 1)[-1]


class UndecodableError(ValueError):
    """A byte that is not of the encoding; header and line (as Windows-1252) tell in which column it is."""

    def __init__(self, message: str, header: str, before: str) -> None:
        super().__init__(message)
        self.header, self.before = header, before


def open_bytes(path: str) -> IO[bytes]:
    """The bytes of a file, decompressed; a local path or an fsspec URL.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    raw = _opened(path)
    gzipped = raw.read(2) == _GZIPPED
    raw.seek(0)
    return gzip.open(raw) if gzipped else raw  # type: ignore[return-value]


def _opened(path: str) -> IO[bytes]:
    if Path(path).is_file() and not path.endswith((".bz2", ".xz", ".zst", ".zip")):
        return Path(path).open("rb")
    import fsspec

    filesystem, where = fsspec.core.url_to_fs(path)
    if not filesystem.isfile(where):
        raise FileNotFoundError(f"{path} does not exist or is not a file.")
    compression = fsspec.utils.infer_compression(where)
    stream: IO[bytes] = filesystem.open(where, "rb", compression=None if compression == "gzip" else compression)
    if Path(path).is_file():
        return stream
    with stream:  # a remote file may not be seekable
        return io.BytesIO(stream.read())


def blocks_of_lines(source: TextSource) -> Iterator[list[str]]:
    r"""The lines of a file, about a megabyte at a time; each ends in "\n" but perhaps the last.

    Lines end at LF, CR or CR LF, and nowhere else: not at a form feed or a Unicode line separator.

    Raises:
        FileNotFoundError: if there is no such file.
        UndecodableError: naming line and byte, if the file is not of its encoding.
        ValueError: if it is not text, is damaged, or contradicts the encoding that the user names.
    """
    n_lines = 0
    with open_text(source) as text, _errors_of(source):
        while block := text.readlines(_BLOCK):
            if "\0" in (joined := "".join(block)):
                line = n_lines + joined[: joined.index("\0")].count("\n") + 1
                raise ValueError(f"{source.path}, line {line}: a zero byte; the file is not text, or it is damaged.")
            n_lines += len(block)
            yield block


def blocks_of_text(source: TextSource) -> Iterator[str]:
    """The text of a file, some hundred thousand characters at a time, however long its lines; errors as above."""
    with open_text(source) as text, _errors_of(source):
        while block := text.read(_CHARACTERS):
            if "\0" in block:
                raise ValueError(f"{source.path}: holds a zero byte; the file is not text, or it is damaged.")
            yield block


@contextlib.contextmanager
def _errors_of(source: TextSource) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise _undecodable(source, error) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source.path}: the compression is damaged ({error}); get the file again.") from None


def open_text(source: TextSource) -> io.TextIOWrapper:
    """The text of a file, from its beginning; `blocks_of_lines` reports what is wrong with it."""
    encoding = encoding_of(source)
    return io.TextIOWrapper(open_bytes(source.path), encoding=encoding)


def holds(source: TextSource, what: bytes) -> bool:
    """Whether a file holds some ASCII text, in any encoding that keeps its bytes."""
    before = b""
    with open_bytes(source.path) as stream:
        while block := stream.read(_BLOCK):
            if what in before + block.replace(b"\0", b""):
                return True
            before = block[-len(what) :]
    return False


def text_of(source: TextSource) -> str:
    """The whole text of a small file; errors of `blocks_of_lines`."""
    return "".join(line for block in blocks_of_lines(source) for line in block)


def encoding_of(source: TextSource) -> str:
    """The encoding in which a file is read.

    Raises:
        ValueError: if the file is of another format, the named encoding is unknown, or the file is UTF-8 though a
            single-byte encoding is named.
    """
    with open_bytes(source.path) as stream:
        head = _first_bytes(source, stream)
    if what := next((what for magic, what in _OTHER_FORMATS if head[: len(magic)].lower() == magic.lower()), None):
        raise ValueError(f"{source.path} is {what}.")
    if stated := next((name for mark, name in _MARKS if head.startswith(mark)), None):
        return stated
    if source.encoding:
        return _named(source)
    even, odd = head[0:2000:2], head[1:2000:2]
    if len(odd) and odd.count(0) > 0.9 * len(odd) and not even.count(0):
        return "utf-16-le"
    if len(even) and even.count(0) > 0.9 * len(even) and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def _first_bytes(source: TextSource, stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_HEAD)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source.path}: the compression is damaged ({error}); get the file again.") from None


def _named(source: TextSource) -> str:
    try:
        codec: Any = codecs.lookup(str(source.encoding))
        if not codec._is_text_encoding:
            raise LookupError
    except LookupError:
        near = get_close_matches(str(source.encoding).lower(), _COMMON, n=3, cutoff=0.5) or _COMMON
        raise ValueError(f"encoding {source.encoding!r} is unknown; use a name such as {', '.join(near)}.") from None
    is_single_byte = len(bytes(range(256)).decode(codec.name, "replace")) == 256
    if is_single_byte and _is_beyond_ascii_and_utf8(source.path):
        raise ValueError(
            f"{source.path} is UTF-8, not {source.encoding} as stated; leave the encoding out, or convert the files "
            "that are not UTF-8."
        )
    return str(codec.name)


def _is_beyond_ascii_and_utf8(path: str) -> bool:
    """Whether bytes above 127 form UTF-8 throughout, which text in a single-byte encoding never does by chance."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with open_bytes(path) as stream:
        try:
            while block := stream.read(_BLOCK):
                is_ascii = is_ascii and block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return not is_ascii


def _remedy(source: TextSource) -> str:
    named = source.remedy.replace("NAME", _SUGGESTED)
    return f"If that is right, name the encoding ({named}), else save it as UTF-8." if named else "Save it as UTF-8."


def _first_bad_line(source: TextSource, encoding: str) -> tuple[str, int, bytes, int]:
    """The header; of the first line that cannot be decoded its number, its bytes, and the place of the first bad."""
    header, n_lines = "", 0
    with open_bytes(source.path) as stream:
        for line in stream:
            try:
                text = line.removeprefix(codecs.BOM_UTF8).decode(encoding)
            except UnicodeDecodeError as found:
                at = found.start
                return header, n_lines + 1 + len(_LINE_ENDS.findall(line[:at])), line, at
            header = header or text.strip()
            n_lines += len(_LINE_ENDS.findall(line))
    raise ValueError(f"{source.path} changed while it was read; read it again.")


def _undecodable(source: TextSource, error: UnicodeDecodeError) -> UndecodableError:
    """Find the first line that cannot be decoded, and what its byte would be in Windows-1252."""
    encoding = encoding_of(source)
    if encoding.startswith(("utf-16", "utf-32")):
        return UndecodableError(f"{source.path} is not {encoding}: {error.reason}; save it as UTF-8.", "", "")
    header, number, bad, at = _first_bad_line(source, "utf-8" if encoding == "utf-8-sig" else encoding)
    if not encoding.startswith("utf-8"):
        return UndecodableError(
            f"{source.path}, line {number}: byte 0x{bad[at]:02X} is not {source.encoding} as stated; name the right "
            "encoding, or save the file as UTF-8.", header, "",
        )  # fmt: skip
    shown = bad.decode(_SUGGESTED, "replace")
    character = bad[at : at + 1].decode(_SUGGESTED, "replace")
    around = shown[max(at - 12, 0) : at + 13].strip()
    return UndecodableError(
        f"{source.path}, line {number}: byte 0x{bad[at]:02X} is not UTF-8; in Windows-1252 it would be {character!r}, "
        f"as in {around!r}. {_remedy(source)}",
        header, shown[:at],
    )  # fmt: skip
