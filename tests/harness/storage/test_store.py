import hashlib
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.runs import assemble
from harness.storage import manifest, tables, transfer
from harness.storage.store import CorruptUnit, Store


def _write(content):
    return lambda folder: (folder / "a.bin").write_bytes(content)


def _read(store):
    with store.open("scores", "k") as folder:
        return (folder / "a.bin").read_bytes()


def _flip(store, content=b"abd"):
    with store.fs.open(f"{store.folder('scores', 'k')}/a.bin", "wb") as stream:
        stream.write(content)


def _flip_and_keep_the_date(store):
    """Simulate a failing disk."""
    file = Path(store.folder("scores", "k")) / "a.bin"
    before = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _sum(content):
    return f"sha256 {hashlib.sha256(content).hexdigest()}"


def _files(store):
    return [path for path in store.fs.find(store.root) if "/.claims/" not in path]


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path / "out"))
    return Store(f"memory://{tmp_path.name}")


def test_a_stored_unit_can_be_opened(store):
    assert store.manifest("scores", "k") is None
    store.put("scores", "k", _write(b"abc"), {"model": "m"})
    assert store.manifest("scores", "k")["model"] == "m"
    assert _read(store) == b"abc"


def test_a_truncated_unit_counts_as_absent_and_is_replaced(store):
    store.put("scores", "k", _write(b"abc"), {})
    _flip(store, b"a")
    assert store.manifest("scores", "k") is None
    store.put("scores", "k", _write(b"abc"), {})
    assert _read(store) == b"abc"


def test_a_unit_truncated_after_the_check_is_detected_when_it_is_opened(store):
    store.put("scores", "k", _write(b"abc"), {})
    assert store.has("scores", "k")
    _flip(store, b"a")
    with pytest.raises(CorruptUnit, match=r"scores unit k: a\.bin is corrupt: written with 3 bytes, now 1 bytes"):
        _read(store)
    assert not store.has("scores", "k")


def test_a_damaged_unit_is_named_in_the_log(store, caplog):
    store.put("scores", "k", _write(b"abc"), {})
    store.fs.rm(f"{store.folder('scores', 'k')}/a.bin")
    assert not store.has("scores", "k")
    assert "scores unit k: a.bin is corrupt: written with 3 bytes, now missing. It is computed again." in caplog.text
    assert _files(store) == []


def test_a_changed_file_is_detected_by_its_checksum_and_named(store):
    store.put("scores", "k", _write(b"abc"), {})
    _flip(store)
    with pytest.raises(CorruptUnit, match=r"a\.bin is corrupt") as caught:
        _read(store)
    error = caught.value
    assert (error.kind, error.key, error.file) == ("scores", "k", "a.bin")
    assert (error.wanted, error.found) == (_sum(b"abc"), _sum(b"abd"))
    assert not store.has("scores", "k")
    store.put("scores", "k", _write(b"abc"), {})
    assert store.has("scores", "k")
    assert _read(store) == b"abc"


def test_a_file_changed_right_after_it_was_written_is_detected_without_opening_it(store, caplog):
    """Two writes may have the same date on a filesystem with a coarse clock, so files are dated back."""
    for _ in range(20):
        store.put("scores", "k", _write(b"abc"), {})
        _flip(store)
        assert not store.has("scores", "k")
    assert caplog.text.count(_sum(b"abd")) == 20


def test_bits_flipped_on_disk_are_detected_when_the_unit_is_opened(tmp_path):
    store = Store(str(tmp_path))
    store.put("scores", "k", _write(b"abc"), {})
    _flip_and_keep_the_date(store)
    assert store.has("scores", "k"), "checking that a unit exists reads no content"
    with pytest.raises(CorruptUnit):
        _read(store)
    assert not store.has("scores", "k")


def test_checking_that_a_unit_exists_reads_no_content(store, monkeypatch):
    store.put("scores", "k", _write(b"abc"), {})
    monkeypatch.setattr(manifest, "compare", None)
    monkeypatch.setattr("harness.storage.store.compare", None)
    assert store.has("scores", "k")


def test_the_checksums_of_a_copied_store_are_compared_once(tmp_path, monkeypatch):
    Store(str(tmp_path / "out")).put("scores", "k", _write(b"abc"), {"model": "m"})
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)
    store, read = Store(str(tmp_path / "copy")), []
    plain = transfer.sha256
    monkeypatch.setattr(transfer, "sha256", lambda file: read.append(file.name) or plain(file))
    assert store.has("scores", "k")
    assert read == ["a.bin"]
    monkeypatch.setattr("harness.storage.store._compared", set())  # as in the next run
    assert Store(store.out).has("scores", "k")
    assert read == ["a.bin"]
    assert store.manifest("scores", "k")["model"] == "m"


def test_a_process_compares_an_unchanged_file_once(tmp_path, monkeypatch):
    store, read = Store(str(tmp_path)), []
    store.put("scores", "k", _write(b"abc"), {})
    plain = transfer.sha256
    monkeypatch.setattr(transfer, "sha256", lambda file: read.append(file.name) or plain(file))
    for _ in range(3):
        assert _read(Store(store.out)) == b"abc"
        store.verify("scores", "k")
    assert read == ["a.bin"]
    _flip(store)
    with pytest.raises(CorruptUnit):
        _read(store)


def test_corrupt_unit_errors_can_be_pickled():
    error = CorruptUnit("scores", "k", "a.bin", "3 bytes", "1 bytes")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - as Ray sends it
    assert str(copy) == str(error)
    assert copy.file == "a.bin"


def test_a_unit_without_a_manifest_is_absent(store):
    store.put("scores", "k", _write(b"abc"), {})
    store.fs.rm(f"{store.folder('scores', 'k')}/manifest.json")
    assert store.manifest("scores", "k") is None
    with pytest.raises(FileNotFoundError, match="run the same command again"):
        _read(store)


def test_a_writer_that_fails_leaves_nothing(store):
    def fail(folder):
        (folder / "a.bin").write_bytes(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        store.put("scores", "k", fail, {})
    assert store.manifest("scores", "k") is None
    if store.is_local:
        assert list(store.fs.find(store.root)) == []


def test_the_first_of_two_writers_wins_and_neither_fails(store):
    def overtaken(folder):
        store.put("scores", "k", _write(b"first"), {})
        (folder / "a.bin").write_bytes(b"later")

    store.put("scores", "k", overtaken, {})
    assert _read(store) == b"first"


def test_a_writer_killed_while_writing_leaves_no_unit(tmp_path):
    """SIGKILL in the middle of a large write: the unit is absent, and the next run writes it."""
    script = (
        "import sys; from harness.storage.store import Store\n"
        "def write(folder):\n"
        "    with (folder / 'a.bin').open('wb') as stream:\n"
        "        print('writing', flush=True)\n"
        "        while True: stream.write(b'x' * 65536)\n"
        "Store(sys.argv[1]).put('scores', 'k', write, {})"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store(str(tmp_path))
    assert list((tmp_path / "units").glob(".aside-*"))
    assert store.manifest("scores", "k") is None
    store.put("scores", "k", _write(b"abc"), {})
    assert _read(store) == b"abc"


def test_sweep_removes_only_old_staging_folders(tmp_path):
    store = Store(str(tmp_path))
    old, fresh = (tmp_path / "units" / f".aside-{name}" for name in ("old", "fresh"))
    old.mkdir(parents=True)
    fresh.mkdir()
    os.utime(old, (0, 0))
    store.sweep()
    assert not old.exists()
    assert fresh.exists()


def test_sweep_passes_over_a_staging_folder_that_disappears(tmp_path, monkeypatch):
    """Another driver renames or removes its folder between the listing and the look at its date."""
    store = Store(str(tmp_path))
    for name in ("gone", "old"):
        (tmp_path / "units" / f".aside-{name}").mkdir(parents=True)
        os.utime(tmp_path / "units" / f".aside-{name}", (0, 0))
    stat = Path.stat

    def vanish(path, **options):
        if path.name == ".aside-gone":
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanish)
    store.sweep()
    monkeypatch.undo()
    assert not (tmp_path / "units" / ".aside-old").exists()


# --- two writers ------------------------------------------------------------------------------------------------------


def test_writers_that_finish_simultaneously_leave_one_intact_unit(tmp_path):
    """Each writes different bytes; after each of many rounds all files come from one of them."""
    script = (
        "import sys; from harness.storage.store import Store\n"
        "store, me = Store(sys.argv[1]), sys.argv[2].encode()\n"
        "def write(folder):\n"
        "    for name in 'abc': (folder / name).write_bytes(me * 1000)\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    store.put('scores', line.strip(), write, {})\n"
        "    print('done', flush=True)"
    )
    start = [sys.executable, "-c", script, str(tmp_path)]
    writers = [subprocess.Popen([*start, me], stdin=-1, stdout=-1) for me in "12"]
    for writer in writers:
        writer.stdout.readline()
    store = Store(str(tmp_path))
    for number in range(60):
        if number % 2:  # a damaged unit exists already
            store.fs.makedirs(store.folder("scores", f"k{number}"))
            store.fs.touch(f"{store.folder('scores', f'k{number}')}/a")
        for writer in writers:
            writer.stdin.write(f"k{number}\n".encode())
            writer.stdin.flush()
        assert [writer.stdout.readline() for writer in writers] == [b"done\n"] * 2
        with store.open("scores", f"k{number}") as folder:
            assert len({(folder / name).read_bytes() for name in "abc"}) == 1
    for writer in writers:
        writer.stdin.close()
        writer.wait()
    assert not list((tmp_path / "units").glob(".aside-*"))


def test_every_byte_is_synced_to_disk_before_a_unit_moves_into_place(tmp_path, monkeypatch):
    events, rename, fsync = [], Path.rename, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_ino) or fsync(handle))

    def recorded(path, target):
        events.append("rename")
        inodes.extend(file.stat().st_ino for file in (*path.iterdir(), path))
        return rename(path, target)

    inodes = []
    monkeypatch.setattr(Path, "rename", recorded)
    Store(str(tmp_path)).put("scores", "k", _write(b"abc"), {})
    assert len(inodes) == 3
    assert set(inodes) == set(events[: events.index("rename")])


# --- filesystems that fail --------------------------------------------------------------------------------------------


WRITERS = {
    "bytes": "(folder / 'a.bin').write_bytes(bytes(300_000))",
    "safetensors": "save_file({'a': np.zeros(300_000)}, folder / 'a.safetensors')",
    "parquet": "pq.write_table(pa.table({'a': np.random.default_rng(0).random(300_000)}), folder / 'a.parquet')",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_reported_and_leaves_nothing(writer, tmp_path):
    script = (
        "import resource, sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
        "from safetensors.numpy import save_file; from harness.storage.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"def write(folder): {WRITERS[writer]}\n"
        "Store(sys.argv[1]).put('scores', 'k', write, {})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "no space left in" in done.stderr.splitlines()[-1]
    assert "for scores unit k; nothing of it was kept" in done.stderr.splitlines()[-1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not Store(str(tmp_path)).has("scores", "k")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSES_S", (0.0, 0.0))
    return Store(f"memory://{tmp_path.name}")


def _failing(monkeypatch, store, name, error, times):
    """Make a filesystem method fail a number of times before it works; return its recorded calls."""
    plain, calls = getattr(type(store.fs), name), []

    def call(self, *arguments, **named):
        calls.append(arguments)
        if len(calls) <= times:
            raise error
        return plain(self, *arguments, **named)

    monkeypatch.setattr(type(store.fs), name, call)
    return calls


def test_a_full_remote_is_reported_and_leaves_nothing(remote, monkeypatch):
    def write(folder):
        (folder / "a.bin").write_bytes(b"abc")
        (folder / "b.bin").write_bytes(b"abc")

    plain = type(remote.fs).put_file

    def put_file(fs, here, there, **_):
        if there.endswith("b.bin"):
            raise OSError(28, "No space left on device")
        plain(fs, here, there)

    monkeypatch.setattr(type(remote.fs), "put_file", put_file)
    with pytest.raises(OSError, match=rf"no space left in {remote.out} for scores unit k; nothing of it was kept"):
        remote.put("scores", "k", write, {})
    assert _files(remote) == []


@pytest.mark.parametrize("name", ["put_file", "pipe_file", "info"])
def test_writing_to_a_remote_that_fails_twice_works(name, remote, monkeypatch, caplog):
    _failing(monkeypatch, remote, name, ConnectionError("reset by peer"), 2)
    remote.put("scores", "k", _write(b"abc"), {})
    assert caplog.text.count("reset by peer") == 2
    assert _read(remote) == b"abc"


@pytest.mark.parametrize("name", ["cat_file", "info"])
def test_reading_from_a_remote_that_fails_twice_works(name, remote, monkeypatch):
    remote.put("scores", "k", _write(b"abc"), {})
    _failing(monkeypatch, remote, name, TimeoutError("too slow"), 2)
    assert _read(remote) == b"abc"


def test_a_remote_that_fails_three_times_fails_and_leaves_nothing(remote, monkeypatch):
    calls = _failing(monkeypatch, remote, "pipe_file", ConnectionError("reset by peer"), 3)
    with pytest.raises(ConnectionError):
        remote.put("scores", "k", _write(b"abc"), {})
    assert len(calls) == 3
    assert _files(remote) == []


@pytest.mark.parametrize("name", ["info", "ls", "pipe_file", "rm_file"])
def test_rows_are_written_and_read_despite_temporary_failures_of_a_remote(name, remote, monkeypatch):
    """Files on an unreachable remote do not count as absent, and an interrupted table is written again."""
    row = {"run": "r", "kind": "scores", "key": "k", "model": "m", "dataset": "d", "protocol": "strict"}
    for run in ("earlier", "r"):
        calls = _failing(monkeypatch, remote, name, ConnectionError("reset by peer"), 2)
        assemble.write_rows(remote, run, "units", [row | {"run": run}])
    assert calls or name == "pipe_file"
    _failing(monkeypatch, remote, name, ConnectionError("reset by peer"), 2)
    assert tables.read(remote.out, "units").run.tolist() == ["earlier", "r"]
    assert not remote.fs.glob(f"{remote.root.rpartition('/')[0]}/tables/.aside-*/*.parquet")


def test_a_truncated_piece_is_read_again(remote, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1000)
    content, short = os.urandom(10_500), []
    remote.put("scores", "k", _write(content), {})
    plain = type(remote.fs).cat_file

    def cat_file(fs, path, start=None, end=None, **_):
        piece = plain(fs, path, start, end)
        if start == 3000 and not short:
            short.append(path)
            return piece[:-1]
        return piece

    monkeypatch.setattr(type(remote.fs), "cat_file", cat_file)
    assert _read(remote) == content
    assert short


def test_a_remote_file_corrupted_in_transfer_is_read_again(remote, monkeypatch, caplog):
    remote.put("scores", "k", _write(b"abc"), {})
    plain, corrupted = type(remote.fs).cat_file, []

    def cat_file(fs, path, start=None, end=None, **_):
        if path.endswith("a.bin") and not corrupted:
            corrupted.append(path)
            return b"abX"
        return plain(fs, path, start, end)

    monkeypatch.setattr(type(remote.fs), "cat_file", cat_file)
    assert _read(remote) == b"abc"
    assert corrupted
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_sweep_removes_claims_of_ended_processes_on_finished_units_only(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "out"))
    finished, unfinished = store.take("scores", "k"), store.take("scores", "other")
    store.put("scores", "k", _write(b"abc"), {})
    store.sweep()
    assert len(store.claims.paths("scores")) == 2  # this process is alive
    monkeypatch.setattr(store.claims, "is_dead", lambda path: True)
    store.sweep()
    (left,) = store.claims.paths("scores")
    assert "/other." in left
    for claim in (finished, unfinished):
        claim.release()
