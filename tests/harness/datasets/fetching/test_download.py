"""One file over HTTP, from a server on this machine that can misbehave."""

from __future__ import annotations

import hashlib
import socket

import pytest

from harness.datasets.fetching import download as module
from harness.datasets.fetching.download import DownloadError, Session, UnreachableError, download

CONTENT = bytes(range(256)) * 2_000  # what the server of conftest.py serves
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
SHA1 = "sha1:" + hashlib.sha1(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "file.bin"


def left_in(target):
    return sorted(path.name for path in target.parent.glob("*"))


@pytest.mark.parametrize("checksum", [SHA256, SHA1])
def test_a_file_comes_whole_and_nothing_else_is_left(server, target, checksum):
    seen = []
    assert download(server.url, target, checksum, len(CONTENT), watch=lambda *now: seen.append(now)) == checksum
    assert target.read_bytes() == CONTENT
    assert left_in(target) == ["file.bin"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_nobody_pins_comes_with_its_sha256(server, target):
    assert download(server.url, target) == SHA256


def test_a_cut_connection_goes_on_where_it_ended(server, target):
    server.cut_after = [200_000, 150_000]
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    starts = [int(asked.get("range", "bytes=0-")[6:-1]) for asked in server.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] <= 200_000 < starts[2] <= 350_000
    assert server.asked[1]["if-range"] == '"one"'


def test_a_second_download_goes_on_where_the_first_was_given_up(server, target):
    server.cut_after = [200_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        download(server.url, target, SHA256, len(CONTENT))
    kept = module.n_kept(target)
    assert 0 < kept <= 200_000
    server.asked.clear()
    server.cut_after = []
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [asked["range"] for asked in server.asked] == [f"bytes={kept}-"]


def test_a_server_that_always_hangs_up_is_given_up(server, target):
    server.cut_after = [200_000, 100_000] * 10
    server.ranges = False
    with pytest.raises(DownloadError, match="broke off"):
        download(server.url, target, SHA256, len(CONTENT))
    assert len(server.asked) <= 5
    assert not target.exists()


def test_a_server_without_ranges_starts_afresh(server, target):
    server.cut_after, server.ranges = [200_000], False
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_afresh(server, target):
    server.cut_after = [200_000, 0, 0, 0, 0]
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.content, server.etag, server.cut_after = CONTENT, '"two"', []
    assert download(server.url, target) == SHA256
    assert server.asked[-1]["if-range"] == '"one"'


def test_a_part_that_nothing_vouches_for_is_not_gone_on_with(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"of another file")
    assert download(server.url, target) == SHA256
    assert "range" not in server.asked[0]


def test_a_part_of_another_file_is_had_again(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"of another file")
    download(server.url, target, SHA256, len(CONTENT))
    assert [asked.get("range") for asked in server.asked] == ["bytes=15-", None]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_moved_without_asking(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    download(server.url, target, SHA256, len(CONTENT))
    assert server.asked == []
    assert left_in(target) == ["file.bin"]


@pytest.mark.parametrize("n_bytes", [len(CONTENT), 0])
def test_a_part_that_is_too_long_is_had_again(server, target, n_bytes):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    download(server.url, target, SHA256, n_bytes)
    assert target.read_bytes() == CONTENT


def test_a_part_that_the_server_says_is_whole_is_whole(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    target.with_name("file.bin.part.etag").write_text('"one"')
    assert download(server.url, target) == SHA256
    assert len(server.asked) == 1


def test_a_part_that_the_server_says_is_too_long_is_had_again(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    target.with_name("file.bin.part.etag").write_text('"one"')
    assert download(server.url, target) == SHA256
    assert target.read_bytes() == CONTENT


def test_another_range_than_asked_for_is_not_appended(server, target):
    server.cut_after, server.range_shift = [200_000], 1
    assert download(server.url, target) == SHA256


def test_a_weak_etag_vouches_for_nothing(server, target):
    server.cut_after, server.etag = [200_000, 0, 0, 0, 0], 'W/"one"'
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.cut_after = []
    server.asked.clear()
    assert download(server.url, target) == SHA256
    assert "range" not in server.asked[0]


def test_wrong_bytes_are_named_and_not_kept(server, target):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"wanted sha256:.*, came sha256:") as error:
        download(server.url, target, SHA256, len(CONTENT))
    assert SHA256 in str(error.value)
    assert left_in(target) == []


def test_a_body_without_end_is_cut_off(server, target):
    server.content, server.sends_length = CONTENT * 4, False
    sizes = []
    with pytest.raises(DownloadError, match="came sha256"):
        download(server.url, target, SHA256, len(CONTENT), watch=lambda came, _: sizes.append(came))
    assert max(sizes) < 2 * len(CONTENT)


def test_a_short_body_without_a_length_is_not_taken_for_whole(server, target):
    server.sends_length, server.cut_after = False, [200_000]
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, target, status):
    server.statuses = [status, status]
    download(server.url, target, SHA256)
    assert len(server.asked) == 3


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("3600", 30), ("", 0.001), ("Wed, 21 Oct 2026", 0.001)])
def test_a_busy_server_says_how_long_to_wait_but_not_for_ever(server, target, monkeypatch, asked, waited):
    server.statuses, server.retry_after = [503], asked
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    download(server.url, target, SHA256)
    assert slept == [waited]


def test_a_server_that_stays_busy_is_given_up(server, target):
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match=r"503 Service Unavailable \(4 tries\)") as error:
        download(server.url, target, SHA256)
    assert not isinstance(error.value, UnreachableError)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_a_refusal_is_final(server, target, status):
    server.statuses = [status] * 9
    with pytest.raises(DownloadError, match=f"the server answers {status}"):
        download(server.url, target, SHA256)
    assert len(server.asked) == 1
    assert left_in(target) == []


def test_a_slow_server_is_not_waited_for_without_end(server, target, monkeypatch):
    monkeypatch.setattr(module, "_READ_S", 0.05)
    server.slow_s = 0.5
    with pytest.raises(DownloadError, match=r"no answer in time \(4 tries\)"):
        download(server.url, target, SHA256)


def test_a_closed_port_is_unreachable(target, monkeypatch):
    monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"no connection: Connection refused \(4 tries\)"):
        download(f"http://127.0.0.1:{port}/file", target, SHA256)


def test_a_redirect_is_followed(server, target):
    server.redirect = server.url.replace("/file", "/moved")
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["http://example.org/file", "ftp://example.org/file", "file:///etc/hostname"])
def test_only_https_is_spoken_even_after_a_redirect(server, target, address):
    server.redirect = address
    for url in (address, server.url):
        with pytest.raises(DownloadError, match=r"only https|cannot be asked"):
            download(url, target, SHA256, session=Session())
    assert left_in(target) == []


def test_a_redirect_in_a_circle_ends(server, target):
    server.redirect = server.url
    with pytest.raises(DownloadError, match="TooManyRedirects"):
        download(server.url, target, SHA256)


def test_an_error_tells_no_signature(server, target):
    server.redirect = server.url.replace("/file", "/moved?signature=secret")
    server.statuses = []
    server.content = b""
    with pytest.raises(DownloadError) as error:
        download(server.url, target, SHA256)
    assert "secret" not in str(error.value)
