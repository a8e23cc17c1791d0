"""Decodes a file into lines of text. The encoding is declared by the file or named by the user, never guessed.

A byte-order mark declares the encoding; UTF-16 without one is recognised by its pattern of zero bytes. All other files
are decoded strictly as UTF-8, or in the encoding named by the user. Gzip is recognised by its first bytes.
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
from itertools import chain
from pathlib import Path
from typing import IO, Any

from harness.names import nearest

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
_HEAD_BYTES = 2**16
_BLOCK_BYTES = 2**20
_BLOCK_CHARACTERS = 2**18
_FALLBACK = "windows-1252"
_SUGGESTIONS = ("utf-8", "utf-16", "windows-1252", "latin-1", "mac-roman", "shift_jis", "gb18030", "big5", "euc-kr")


@dataclass(frozen=True)
class TextSource:
    """A text file.

    Attributes:
        path: local path or fsspec URL; the file may be compressed.
        encoding: used if the file does not declare one; None means UTF-8.
        remedy: how the user can name an encoding, for error messages, such as "--encoding NAME"; "" if that is not
            possible.
    """

    path: str
    encoding: str | None = None
    remedy: str = "--encoding NAME"

    @property
    def name(self) -> str:
        """File name without the folder."""
        return self.path.rsplit("/", 1)[-1]


class UndecodableError(ValueError):
    """A byte is invalid in the expected encoding.

    Attributes:
        header: text of the header line.
        before: text of the line before the invalid byte, decoded as Windows-1252; locates the column.
    """

    def __init__(self, message: str, header: str, before: str) -> None:
        super().__init__(message)
        self.header, self.before = header, before


def open_bytes(path: str) -> IO[bytes]:
    """Open a local path or an fsspec URL as bytes, decompressed.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    raw = _open_raw(path)
    gzipped = raw.read(2) == _GZIPPED
    raw.seek(0)
    return gzip.open(raw) if gzipped else raw  # type: ignore[return-value]


def _open_raw(path: str) -> IO[bytes]:
    """Open a file; everything but gzip is decompressed."""
    if Path(path).is_file() and not path.endswith((".bz2", ".xz", ".zst", ".zip")):
        return Path(path).open("rb")
    import fsspec

    filesystem, fs_path = fsspec.core.url_to_fs(path)
    if not filesystem.isfile(fs_path):
        raise FileNotFoundError(f"{path} does not exist or is not a file.")
    compression = fsspec.utils.infer_compression(fs_path)
    stream: IO[bytes] = filesystem.open(fs_path, "rb", compression=None if compression == "gzip" else compression)
    if Path(path).is_file():
        return stream
    with stream:  # a remote file may not be seekable
        return io.BytesIO(stream.read())


def blocks_of_lines(source: TextSource) -> Iterator[list[str]]:
    r"""Yield the lines of a file in blocks of about one megabyte; each line ends in "\n" except possibly the last.

    Lines end at LF, CR or CR LF only, not at a form feed or a Unicode line separator.

    Raises:
        FileNotFoundError: if the file does not exist.
        UndecodableError: if a byte is invalid in the file's encoding; names line and byte.
        ValueError: if the file is not text, is damaged, or contradicts the encoding named by the user.
    """
    n_lines = 0
    with open_text(source) as text, _clear_errors(source):
        while block := text.readlines(_BLOCK_BYTES):
            if "\0" in (joined := "".join(block)):
                line = n_lines + joined[: joined.index("\0")].count("\n") + 1
                raise ValueError(f"{source.path}, line {line}: a zero byte; the file is not text or is damaged.")
            n_lines += len(block)
            yield block


def blocks_of_text(source: TextSource) -> Iterator[str]:
    """Yield the text in blocks of a few hundred thousand characters, whatever the line length; errors as above."""
    with open_text(source) as text, _clear_errors(source):
        while block := text.read(_BLOCK_CHARACTERS):
            if "\0" in block:
                raise ValueError(f"{source.path}: contains a zero byte; the file is not text or is damaged.")
            yield block


@contextlib.contextmanager
def _clear_errors(source: TextSource) -> Iterator[None]:
    """Turn decoding and decompression errors into messages for the user."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _undecodable(source, error) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{source.path}: the compression is damaged ({error}); copy or download the file again."
        ) from None


def open_text(source: TextSource) -> io.TextIOWrapper:
    """Open a file as text; unlike `blocks_of_lines`, decoding errors are raised as they are."""
    encoding = encoding_of(source)
    return io.TextIOWrapper(open_bytes(source.path), encoding=encoding)


def contains(source: TextSource, pattern: bytes) -> bool:
    """Whether a file contains an ASCII string, in any encoding that preserves ASCII bytes."""
    tail = b""
    with open_bytes(source.path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            if pattern in tail + block.replace(b"\0", b""):
                return True
            tail = block[-len(pattern) :]
    return False


def lines_of(source: TextSource) -> Iterator[str]:
    """Yield the lines of a file; raises as `blocks_of_lines`."""
    return chain.from_iterable(blocks_of_lines(source))


def text_of(source: TextSource) -> str:
    """Read a small file whole; raises as `blocks_of_lines`."""
    return "".join(lines_of(source))


def encoding_of(source: TextSource) -> str:
    """Determine the encoding of a file.

    Raises:
        ValueError: if the file has another format (a workbook, a PDF ...), the encoding named by the user is unknown,
            or the file is UTF-8 although the user named a single-byte encoding.
    """
    with open_bytes(source.path) as stream, _clear_errors(source):
        head = stream.read(_HEAD_BYTES)
    if other := next((text for magic, text in _OTHER_FORMATS if head[: len(magic)].lower() == magic.lower()), None):
        raise ValueError(f"{source.path} is {other}.")
    if declared := next((name for mark, name in _MARKS if head.startswith(mark)), None):
        return declared
    if source.encoding:
        return _named_encoding(source)
    even, odd = head[0:2000:2], head[1:2000:2]
    if len(odd) and odd.count(0) > 0.9 * len(odd) and not even.count(0):
        return "utf-16-le"
    if len(even) and even.count(0) > 0.9 * len(even) and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def _named_encoding(source: TextSource) -> str:
    """Check the encoding named by the user and return its codec name."""
    try:
        codec: Any = codecs.lookup(str(source.encoding))
        if not codec._is_text_encoding:
            raise LookupError
    except LookupError:
        near = nearest(str(source.encoding).lower(), _SUGGESTIONS, cutoff=0.5) or _SUGGESTIONS
        raise ValueError(f"encoding {source.encoding!r} is unknown; use a name such as {', '.join(near)}.") from None
    is_single_byte = len(bytes(range(256)).decode(codec.name, "replace")) == 256
    if is_single_byte and _is_non_ascii_utf8(source.path):
        raise ValueError(
            f"{source.path} is UTF-8, not {source.encoding} as stated; omit the encoding, or convert the files that "
            "are not UTF-8."
        )
    return str(codec.name)


def _is_non_ascii_utf8(path: str) -> bool:
    """Whether a file has bytes above 127 and is valid UTF-8; text in a single-byte encoding never is by chance."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with open_bytes(path) as stream:
        try:
            while block := stream.read(_BLOCK_BYTES):
                is_ascii = is_ascii and block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return not is_ascii


def _remedy(source: TextSource) -> str:
    option = source.remedy.replace("NAME", _FALLBACK)
    return f"If that is right, name the encoding ({option}), else save it as UTF-8." if option else "Save it as UTF-8."


def _first_bad_line(source: TextSource, encoding: str) -> tuple[str, int, bytes, int]:
    """Return the header line, and number, bytes and first invalid position of the first line that cannot be decoded."""
    header, n_lines = "", 0
    with open_bytes(source.path) as stream:
        for line in stream:
            try:
                text = line.removeprefix(codecs.BOM_UTF8).decode(encoding)
            except UnicodeDecodeError as error:
                return header, n_lines + 1 + len(_LINE_ENDS.findall(line[: error.start])), line, error.start
            header = header or text.strip()
            n_lines += len(_LINE_ENDS.findall(line))
    raise ValueError(f"{source.path} changed while it was being read; try again.")


def _undecodable(source: TextSource, error: UnicodeDecodeError) -> UndecodableError:
    """Describe the first invalid byte: its line, and what it would be in Windows-1252."""
    encoding = encoding_of(source)
    if encoding.startswith(("utf-16", "utf-32")):
        return UndecodableError(f"{source.path} is not {encoding}: {error.reason}; save it as UTF-8.", "", "")
    header, number, line, at = _first_bad_line(source, "utf-8" if encoding == "utf-8-sig" else encoding)
    if not encoding.startswith("utf-8"):
        return UndecodableError(
            f"{source.path}, line {number}: byte 0x{line[at]:02X} is not {source.encoding} as stated; name the correct "
            "encoding, or save the file as UTF-8.", header, "",
        )  # fmt: skip
    text = line.decode(_FALLBACK, "replace")
    character = line[at : at + 1].decode(_FALLBACK, "replace")
    excerpt = text[max(at - 12, 0) : at + 13].strip()
    return UndecodableError(
        f"{source.path}, line {number}: byte 0x{line[at]:02X} is not UTF-8; in Windows-1252 it would be {character!r}, "
        f"as in {excerpt!r}. {_remedy(source)}",
        header, text[:at],
    )  # fmt: skip
