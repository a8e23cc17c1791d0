"""Download of one file from a local server that can misbehave."""

from __future__ import annotations

import hashlib
import socket

import pytest

from harness.datasets.fetching import download as module
from harness.datasets.fetching.download import DownloadError, Session, UnreachableError, download

CONTENT = bytes(range(256)) * 2_000  # served by the server of conftest.py
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
SHA1 = "sha1:" + hashlib.sha1(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "file.bin"


def files_in_folder_of(target):
    return sorted(path.name for path in target.parent.glob("*"))


@pytest.mark.parametrize("checksum", [SHA256, SHA1])
def test_a_file_is_downloaded_and_no_other_file_is_left(server, target, checksum):
    calls = []
    on_progress = lambda *counts: calls.append(counts)  # noqa: E731
    assert download(server.url, target, checksum, len(CONTENT), on_progress=on_progress) == checksum
    assert target.read_bytes() == CONTENT
    assert files_in_folder_of(target) == ["file.bin"]
    assert calls[0] == (0, len(CONTENT))
    assert calls[-1] == (len(CONTENT), len(CONTENT))


def test_an_unpinned_file_is_returned_with_its_sha256(server, target):
    assert download(server.url, target) == SHA256


def test_an_interrupted_download_is_resumed(server, target):
    server.cut_after = [200_000, 150_000]
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    starts = [int(request.get("range", "bytes=0-")[6:-1]) for request in server.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] <= 200_000 < starts[2] <= 350_000
    assert server.asked[1]["if-range"] == '"one"'


def test_a_second_download_resumes_one_that_was_given_up(server, target):
    server.cut_after = [200_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="connection was lost"):
        download(server.url, target, SHA256, len(CONTENT))
    kept = module.n_kept(target)
    assert 0 < kept <= 200_000
    server.asked.clear()
    server.cut_after = []
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [request["range"] for request in server.asked] == [f"bytes={kept}-"]


def test_a_server_that_always_drops_the_connection_is_given_up(server, target):
    server.cut_after = [200_000, 100_000] * 10
    server.ranges = False
    with pytest.raises(DownloadError, match="connection was lost"):
        download(server.url, target, SHA256, len(CONTENT))
    assert len(server.asked) <= 5
    assert not target.exists()


def test_without_range_support_the_download_restarts(server, target):
    server.cut_after, server.ranges = [200_000], False
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_the_download_of_a_file_that_has_changed_restarts(server, target):
    server.cut_after = [200_000, 0, 0, 0, 0]
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.content, server.etag, server.cut_after = CONTENT, '"two"', []
    assert download(server.url, target) == SHA256
    assert server.asked[-1]["if-range"] == '"one"'


def test_partial_data_without_checksum_or_etag_are_not_used(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"of another file")
    assert download(server.url, target) == SHA256
    assert "range" not in server.asked[0]


def test_partial_data_of_another_file_are_downloaded_again(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(b"of another file")
    download(server.url, target, SHA256, len(CONTENT))
    assert [request.get("range") for request in server.asked] == ["bytes=15-", None]
    assert target.read_bytes() == CONTENT


def test_complete_partial_data_are_moved_without_a_request(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    download(server.url, target, SHA256, len(CONTENT))
    assert server.asked == []
    assert files_in_folder_of(target) == ["file.bin"]


@pytest.mark.parametrize("n_bytes", [len(CONTENT), 0])
def test_partial_data_that_are_too_long_are_downloaded_again(server, target, n_bytes):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    download(server.url, target, SHA256, n_bytes)
    assert target.read_bytes() == CONTENT


def test_partial_data_of_the_servers_size_are_complete(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT)
    target.with_name("file.bin.part.etag").write_text('"one"')
    assert download(server.url, target) == SHA256
    assert len(server.asked) == 1


def test_partial_data_longer_than_the_servers_file_are_downloaded_again(server, target):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    target.with_name("file.bin.part.etag").write_text('"one"')
    assert download(server.url, target) == SHA256
    assert target.read_bytes() == CONTENT


def test_a_range_that_was_not_requested_is_not_appended(server, target):
    server.cut_after, server.range_shift = [200_000], 1
    assert download(server.url, target) == SHA256


def test_a_weak_etag_does_not_allow_resuming(server, target):
    server.cut_after, server.etag = [200_000, 0, 0, 0, 0], 'W/"one"'
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.cut_after = []
    server.asked.clear()
    assert download(server.url, target) == SHA256
    assert "range" not in server.asked[0]


def test_a_file_with_a_wrong_checksum_is_deleted(server, target):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"wanted sha256:.*, received sha256:") as error:
        download(server.url, target, SHA256, len(CONTENT))
    assert SHA256 in str(error.value)
    assert files_in_folder_of(target) == []


def test_an_endless_body_is_cut_off(server, target):
    server.content, server.sends_length = CONTENT * 4, False
    sizes = []
    with pytest.raises(DownloadError, match="received sha256"):
        download(server.url, target, SHA256, len(CONTENT), on_progress=lambda received, _: sizes.append(received))
    assert max(sizes) < 2 * len(CONTENT)


def test_a_short_body_without_a_length_is_not_taken_as_complete(server, target):
    server.sends_length, server.cut_after = False, [200_000]
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_retried(server, target, status):
    server.statuses = [status, status]
    download(server.url, target, SHA256)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("retry_after", "waited_s"), [("7", 7), ("3600", 30), ("", 0.001), ("Wed, 21 Oct 2026", 0.001)]
)
def test_retry_after_is_followed_up_to_a_maximum(server, target, monkeypatch, retry_after, waited_s):
    server.statuses, server.retry_after = [503], retry_after
    sleeps = []
    monkeypatch.setattr(module.time, "sleep", sleeps.append)
    download(server.url, target, SHA256)
    assert sleeps == [waited_s]


def test_a_server_that_stays_busy_is_given_up(server, target):
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match=r"503 Service Unavailable \(4 attempts\)") as error:
        download(server.url, target, SHA256)
    assert not isinstance(error.value, UnreachableError)
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_other_error_statuses_are_not_retried(server, target, status):
    server.statuses = [status] * 9
    with pytest.raises(DownloadError, match=f"the server answers {status}"):
        download(server.url, target, SHA256)
    assert len(server.asked) == 1
    assert files_in_folder_of(target) == []


def test_a_slow_server_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(module, "_READ_S", 0.05)
    server.slow_s = 0.5
    with pytest.raises(DownloadError, match=r"no response in time \(4 attempts\)"):
        download(server.url, target, SHA256)


def test_a_closed_port_is_unreachable(target, monkeypatch):
    monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"no connection: Connection refused \(4 attempts\)"):
        download(f"http://127.0.0.1:{port}/file", target, SHA256)


def test_a_redirect_is_followed(server, target):
    server.redirect = server.url.replace("/file", "/moved")
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["http://example.org/file", "ftp://example.org/file", "file:///etc/hostname"])
def test_only_https_is_allowed_even_after_a_redirect(server, target, address):
    server.redirect = address
    for url in (address, server.url):
        with pytest.raises(DownloadError, match=r"only https|the request failed"):
            download(url, target, SHA256, session=Session())
    assert files_in_folder_of(target) == []


def test_a_circular_redirect_is_given_up(server, target):
    server.redirect = server.url
    with pytest.raises(DownloadError, match="TooManyRedirects"):
        download(server.url, target, SHA256)


def test_the_error_does_not_contain_the_address(server, target):
    server.redirect = server.url.replace("/file", "/moved?signature=secret")
    server.statuses = []
    server.content = b""
    with pytest.raises(DownloadError) as error:
        download(server.url, target, SHA256)
    assert "secret" not in str(error.value)
