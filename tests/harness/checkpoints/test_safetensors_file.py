"""A weights file is checked before loading: wrong file types, other formats and damage are reported."""

import json
import os
import socket
from pathlib import Path

import pytest

from harness.checkpoints.safetensors_file import MAX_HEADER_BYTES, StoredTensor, header_of

NUMBERS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def test_header_gives_type_and_shape_of_each_tensor(file):
    entries = {
        "a": NUMBERS,
        "b": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [8, 12]},
        "c": {"dtype": "F4", "shape": [4], "data_offsets": [12, 14]},
        "d": {"dtype": "I64", "shape": [], "data_offsets": [14, 22]},
        "__metadata__": {"format": "pt"},
    }
    stored = header_of(write(file, entries, bytes(22)), "m")
    assert stored == {"a": StoredTensor("F32", (2,)), "b": StoredTensor("F8_E4M3", (2, 2)),
                     "c": StoredTensor("F4", (4,)), "d": StoredTensor("I64", ())}  # fmt: skip
    assert [stored[key].n_numbers for key in "abcd"] == [2, 4, 4, 1]


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: write(p, {"a": NUMBERS}, bytes(12)), "its header promises 77 bytes, the file has 81"),
    (lambda p: write(p, {"a": NUMBERS}, bytes(4)), "its header promises 77 bytes, the file has 73"),
    (lambda p: p.write_bytes(b""), "a header takes at least 8 bytes, the file has 0"),
    (lambda p: write(p, {"a": NUMBERS}, length=2**63), f"its header alone takes {2**63} bytes, the file has 69"),
    (lambda p: write(p, b"hello"), "is damaged: invalid JSON in header"),
    (lambda p: write(p, b"[" * 10**5 + b"]" * 10**5), "is damaged: invalid JSON in header"),
    (lambda p: write(p, {"a": NUMBERS | {"shape": [3]}}, bytes(8)), r"gives a the shape \[3\] of F32, .* the 8 bytes"),
    (lambda p: write(p, {"a": NUMBERS | {"shape": [2**40, 2**40]}}, bytes(8)), r"gives a the shape \[1099511627776"),
    (lambda p: write(p, {"a": NUMBERS | {"shape": [2**40, 2**40, 0]}}, bytes(8)), "gives a the shape"),
    (lambda p: write(p, {"a": NUMBERS | {"shape": [-2]}}, bytes(8)), r"gives a the shape \[-2\]"),
    (lambda p: write(p, {"a": NUMBERS | {"dtype": "F99"}}, bytes(8)), "gives a the type F99, which safetensors does"),
    (lambda p: write(p, {"a": NUMBERS, "b": NUMBERS | {"data_offsets": [4, 12]}}, bytes(12)), "the data of b overlap"),
    (lambda p: write(p, {"a": NUMBERS, "b": NUMBERS | {"data_offsets": [12, 20]}}, bytes(20)), "the data of b overlap"),
    (lambda p: write(p, {"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "missing field `shape`"),
])  # fmt: skip
def test_error_for_a_damaged_file_says_what_is_wrong(file, make, message):
    make(file)
    with pytest.raises(ValueError, match=message) as error:
        header_of(file, "my-model")
    assert str(error.value).startswith("my-model: model.safetensors is damaged: ")
    assert "\n" not in str(error.value)


def test_a_header_above_the_limit_is_refused_before_it_is_read(file):
    with file.open("wb") as stream:
        stream.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        stream.truncate(2 * MAX_HEADER_BYTES)
    with pytest.raises(ValueError, match=r"a header of 100 MB; safetensors allows 100 MB"):
        header_of(file, "m")


@pytest.mark.parametrize(("content", "message"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer.*git lfs pull"),
    (b"<!DOCTYPE html><html><head><title>404</title></head></html>", "is a web page"),
    (b"PK\x03\x04" + bytes(60), "is a zip archive, as torch.save writes"),
    (b"GGUF" + bytes(60), "is a GGUF file"),
    (b"\x80\x02}q\x00." + bytes(60), "is a pickle"),
])  # fmt: skip
def test_error_for_another_format_names_the_format(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        header_of(file, "m")


@pytest.mark.parametrize(("make", "message"), [
    (os.mkfifo, r"is a named pipe \(FIFO\)"),
    (Path.mkdir, "is a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "is a character device"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "is a socket"),
    (lambda path: path.symlink_to(path), "cannot be read"),
])  # fmt: skip
def test_paths_that_are_not_regular_files_are_refused_without_blocking(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)  # socket paths must be short
    make(Path("model.safetensors"))
    with pytest.raises(ValueError, match=message):
        header_of(tmp_path / "model.safetensors", "m")


def test_error_for_a_broken_link_names_its_target(file):
    file.symlink_to("../../blobs/abc")
    with pytest.raises(FileNotFoundError, match=r"a symbolic link to \.\./\.\./blobs/abc, which is not there"):
        header_of(file, "m")


def test_a_file_without_read_permission_is_refused(file, monkeypatch):
    write(file, {"a": NUMBERS}, bytes(8))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, which can read everything
    with pytest.raises(ValueError, match="permission denied"):
        header_of(file, "m")


@pytest.mark.parametrize("length", [0x0280, 0x093C])
def test_a_header_whose_length_looks_like_another_format_is_read(file, length):
    """Pickles begin with the bytes 80 02, web pages with 3C, and so do headers of 640 and 2,364 bytes."""
    raw = json.dumps({"a": NUMBERS}).encode()
    write(file, raw + b" " * (length - len(raw)), bytes(8))
    assert header_of(file, "m") == {"a": StoredTensor("F32", (2,))}
