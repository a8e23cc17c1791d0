"""Fetching data sets from a local server that can misbehave."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from rich.console import Console

from harness import datasets
from harness.cli.commands import main
from harness.datasets.entry import Entry, File
from harness.datasets.fetching import fetch as module
from harness.datasets.fetching.fetch import fetch

ROOT = Path(__file__).resolve().parents[4]


def entry_of(name, *files, **fields):
    return Entry(name, "A test", "brain", "MIT", lambda root: None, (), landing="https://landing.example", files=files,
                 **fields)  # fmt: skip


@pytest.fixture
def files(server):
    """Files of the server by name; "hand" has no address, "free" no checksum."""
    sha256, size = f"sha256:{hashlib.sha256(server.content).hexdigest()}", len(server.content)
    at = server.url.removesuffix("file")
    return {
        "a": File("set/a.bin", f"{at}a", sha256, size),
        "b": File("set/b.bin", f"{at}b", sha256, size),
        "hand": File("set/hand.bin", "", sha256, size),
        "free": File("set/free.bin", f"{at}free", "", 0),
    }


@pytest.fixture
def told():
    return io.StringIO()


@pytest.fixture
def bring(tmp_path, told):
    def call(*entries, wait_s=5.0):
        return fetch(entries, tmp_path / "data", console=Console(file=told, width=200), wait_s=wait_s)

    return call


def states(rows):
    return [row.state for row in rows]


def test_files_are_fetched_once(server, files, bring, tmp_path):
    entry = entry_of("one", files["a"], files["b"])
    first, second = bring(entry), bring(entry)
    assert states(first) == ["fetched", "fetched"]
    assert states(second) == ["there", "there"]
    assert len(server.asked) == 2
    assert (tmp_path / "data/set/a.bin").read_bytes() == server.content
    assert first[0].place == str(tmp_path / "data/set/a.bin")
    assert first[0].checksum == second[0].checksum == files["a"].checksum


def test_a_damaged_file_is_reported_and_replaced(server, files, bring, tmp_path):
    place = tmp_path / "data/set/a.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(server.content[:-1] + b"?")
    (row,) = bring(entry_of("one", files["a"]))
    assert (row.state, row.why) == ("fetched", "replaced a file that was damaged or from another release")
    assert place.read_bytes() == server.content


def test_a_damaged_file_is_kept_until_the_new_one_is_verified(server, files, bring, tmp_path):
    place = tmp_path / "data/set/a.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"damaged")
    server.content = b"other"
    (row,) = bring(entry_of("one", files["a"]))
    assert row.state == "failed"
    assert "wanted sha256" in row.why
    assert row.why.endswith("the existing file is damaged or from another release")
    assert [path.name for path in place.parent.iterdir()] == ["a.bin"]


def test_a_failure_does_not_stop_other_files(server, files, bring):
    server.absent = {"/a"}
    rows = bring(entry_of("one", files["a"], files["b"]), entry_of("two", files["hand"], files["free"]))
    assert states(rows) == ["failed", "fetched", "failed", "fetched"]
    assert rows[0].why == "the server answers 404 Not Found"
    assert rows[2].why == "no direct address is known"
    assert rows[3].checksum == files["a"].checksum
    assert not rows[3].pinned


def test_an_unreachable_server_is_tried_once(server, files, bring, monkeypatch):
    calls = []

    def unreachable(url, *_, **__):
        calls.append(url)
        raise module.UnreachableError("no connection: no network (4 attempts)")

    monkeypatch.setattr(module, "download", unreachable)
    rows = bring(entry_of("one", files["a"], files["b"]), entry_of("two", files["free"]))
    assert [row.why for row in rows] == ["no connection: no network (4 attempts)"] * 3
    assert len(calls) == 1


def test_too_little_disk_space_is_reported_before_the_download(server, files, bring, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=len(server.content))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    rows = bring(entry_of("large", files["a"], files["b"]), entry_of("small", files["a"]))
    assert states(rows) == ["failed", "failed", "fetched"]
    assert rows[0].why == "large needs 1.0 MB of disk space, 512.0 kB are free"
    assert len(server.asked) == 1
    assert states(bring(entry_of("large", files["a"], files["b"]))) == ["there", "fetched"]


def test_a_folder_in_the_place_of_a_file_fails_only_that_file(server, files, bring, tmp_path):
    (tmp_path / "data/set/a.bin").mkdir(parents=True)
    assert states(bring(entry_of("one", files["a"], files["b"]))) == ["failed", "fetched"]


def test_nothing_is_written_if_nothing_can_be_fetched(server, files, bring, tmp_path):
    assert states(bring(entry_of("one", files["hand"]))) == ["failed"]
    assert not (tmp_path / "data").exists()


SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from harness.datasets.entry import Entry, File
from harness.datasets.fetching.fetch import fetch
root, *file = sys.argv[1:]
entry = Entry("one", "", "brain", "MIT", None, (), files=(File(file[0], file[1], file[2], int(file[3])),))
print(*(row.state for row in fetch([entry], Path(root), console=Console(stderr=True, width=300), wait_s=20)))
"""


def test_two_simultaneous_fetches_download_once(server, files, tmp_path):
    server.gate = threading.Event()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *map(str, files["a"])]
    first = subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1)
    while not server.asked and first.poll() is None:
        time.sleep(0.01)
    second = subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1)
    assert f"process {first.pid} on" in second.stderr.readline()
    server.gate.set()
    outputs = [process.communicate(timeout=30)[0].strip() for process in (first, second)]
    assert outputs == ["fetched", "there"]
    assert len(server.asked) == 1
    assert not (tmp_path / ".harness-fetch.holder").exists()


def test_a_killed_fetch_does_not_block_and_is_resumed(server, files, bring, tmp_path):
    server.hold_after = 300_000
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), *map(str, files["a"])]
    process = subprocess.Popen(command, cwd=ROOT)
    part = tmp_path / "data/set/a.bin.part"
    for _ in range(400):
        if part.exists() and part.stat().st_size >= 200_000:
            break
        threading.Event().wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.hold_after = 0
    (row,) = bring(entry_of("one", files["a"]), wait_s=0.0)
    assert row.state == "fetched"
    assert int(server.asked[-1]["range"][6:-1]) >= 200_000


def test_waiting_for_another_fetch_times_out(server, files, bring, tmp_path, told):
    (tmp_path / "data").mkdir()
    ready, done = threading.Event(), threading.Event()

    def hold():
        with module._locked(tmp_path / "data", 0, Console()):
            ready.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    started = time.monotonic()
    try:
        (row,) = bring(entry_of("one", files["a"]), wait_s=0.1)
    finally:
        done.set()
        thread.join()
    assert time.monotonic() - started < 5
    assert row.state == "failed"
    assert "did not end within" in row.why
    assert "is fetching into" in told.getvalue()
    assert server.asked == []


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(files, monkeypatch):
    """A table of test entries: two releases of one data set, and one without an address."""
    entries = [
        entry_of("old-1", files["a"]),
        entry_of("old-2", files["a"], files["free"], non_commercial=True),
        entry_of("manual", files["hand"]),
    ]
    monkeypatch.setattr(datasets, "DATASETS", {entry.name: entry for entry in entries})


def test_the_command_prints_one_document(server, table, tmp_path, capsys):
    assert main(["fetch", "old", "--data-root", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [row["dataset"] for row in document["fetched"]] == ["old-1", "old-2"]
    assert [row["file"] for row in document["there"]] == ["set/a.bin"]
    assert document["failed"] == []
    assert document["root"] == str(tmp_path)
    assert captured.err.splitlines() == ["old-2: MIT (NON-COMMERCIAL use only)"]


def test_the_command_explains_how_to_get_failed_files_by_hand(server, table, tmp_path, capsys):
    server.absent = {"/a"}
    assert main(["fetch", "old-1", "manual", "old-2", "--data-root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert (
        f"404 Not Found. Download {server.url[:-4]}a (512.0 kB) by other means and save it as {tmp_path}/set/a.bin"
        in out
    )
    assert f"See https://landing.example and put it into {tmp_path}/set" in out
    assert "set/free.bin: no published checksum; the file has sha256:" in out
    assert "old-2: 1 fetched (512.0 kB), 1 failed (512.0 kB)" in out


def test_optional_files_with_an_address_are_fetched_and_their_failure_is_no_error(
    server, files, tmp_path, monkeypatch, capsys
):
    hand = files["hand"]._replace(path="set/other.bin")
    entry = entry_of("one", files["a"], optional=(files["b"], hand))
    monkeypatch.setattr(datasets, "DATASETS", {"one": entry})
    command = ["fetch", "one", "--data-root", str(tmp_path)]
    server.absent = {"/b"}
    assert main(command) == 0
    assert f"set/b.bin: optional, 404 Not Found. Download {server.url[:-4]}b" in _words(capsys.readouterr().out)
    server.absent = set()
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["file"], row["optional"]) for row in document["fetched"]] == [("set/b.bin", True)]
    assert [(row["file"], row["optional"]) for row in document["there"]] == [("set/a.bin", False)]
    assert document["failed"] == []  # the one without an address is not asked for
    assert (tmp_path / "set/b.bin").read_bytes() == server.content
    server.absent = {"/a"}
    (tmp_path / "set/a.bin").unlink()
    assert main(command) == 1


def _words(text):
    return text.replace("the server answers ", "")


@pytest.mark.parametrize(("names", "message"), [(["oldest"], "is unknown"), ([], "required: DATASET")])
def test_the_command_rejects_unknown_names(table, names, message, capsys, tmp_path):
    try:
        status = main(["fetch", *names, "--data-root", str(tmp_path)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_the_list_shows_what_is_missing(server, files, table, tmp_path, capsys):
    place = tmp_path / "set/a.bin"
    place.parent.mkdir()
    place.write_bytes(b"damaged")
    assert main(["datasets", "--data-root", str(tmp_path), "--json"]) == 0
    old, new, manual = json.loads(capsys.readouterr().out)
    assert (old["here"], old["n_files"], old["n_missing"], old["n_damaged"]) == (False, 1, 0, 1)
    assert (new["n_missing"], new["n_damaged"], new["n_bytes_to_fetch"]) == (1, 1, files["a"].n_bytes)
    assert manual["n_by_hand"] == 1
    assert main(["datasets", "--data-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "NON-COMMERCIAL use only: old-2" in out
    assert "by hand: manual" in out


def test_one_data_set_shows_its_files(server, files, table, tmp_path, capsys):
    place = tmp_path / "set/a.bin"
    place.parent.mkdir()
    place.write_bytes(server.content[:-1] + b"?")
    assert main(["datasets", "old-2", "--data-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "damaged  set/a.bin (512.0 kB)" in out
    assert "missing  set/free.bin (size unknown)" in out
    for text in (files["a"].checksum, files["a"].url, "no published checksum", "harness fetch old-2", "NON-COMMERCIAL"):
        assert text in out


# --- the real table ---------------------------------------------------------------------------------------------------

FILES = [(name, file) for name, entry in datasets.DATASETS.items() for file in (*entry.files, *entry.optional)]


@pytest.mark.parametrize(
    ("name", "file"), FILES, ids=[f"{name}-{PurePosixPath(file.path).name}" for name, file in FILES]
)
def test_an_address_is_https_and_a_path_stays_under_the_root(name, file):
    assert file.url == "" or file.url.startswith("https://")
    assert not PurePosixPath(file.path).is_absolute()
    assert ".." not in PurePosixPath(file.path).parts
    assert file.checksum.partition(":")[0] in {"sha256", "sha1", "md5", ""}  # as published


def test_a_data_set_with_files_has_a_web_page():
    assert len(FILES) > 30
    assert all(datasets.find(name).landing.startswith("https://") for name, _ in FILES)


def test_the_published_files_are_present(shared, capsys):
    required_only = ["futrell2018-batch2", "tuckute2024", "brennan2016"]  # the others have optional files to download
    assert main(["fetch", *required_only, "--data-root", str(shared / "data")]) == 0
    assert "brennan2016: 28 already present" in capsys.readouterr().out


def test_unpinned_reaches_the_loader(tmp_path, monkeypatch):
    from harness.runs import workload
    from harness.spec import SPECS

    values = []
    monkeypatch.setattr(workload.datasets, "load", lambda *_, pinned: values.append(pinned) or 1 / 0)
    spec = replace(SPECS["quickstart"](), models=(), datasets=("tuckute2024",))
    for pinned in (True, False):
        workload.make_workload(spec, str(tmp_path), str(tmp_path), pinned=pinned)
    assert values == [True, False]
