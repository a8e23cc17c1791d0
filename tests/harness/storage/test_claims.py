import errno
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness.storage import claims
from harness.storage.store import Store

N_UNITS = 40
# A driver: claims free units, records what it computes, and repeats until all units are finished.
DRIVER = """
import sys, time
from pathlib import Path
from harness.storage.store import Store
out, notes, me = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
store, keys = Store(out), [f"unit{k}" for k in range(40)]
print("ready", flush=True)
sys.stdin.readline()
def write(folder, key):
    time.sleep(0.005)
    (folder / "a.bin").write_bytes(key.encode() * 1000)
while keys:
    for key in list(keys):
        with store.claim("features", key) as mine:
            if mine:
                with (notes / f"{key}.{me}").open("a") as note:
                    note.write("computed\\n")
                store.put("features", key, lambda folder: write(folder, key), {})
        if store.has("features", key):
            keys.remove(key)
"""
HOLDER = """
import sys, time
from harness.storage.store import Store
claim = Store(sys.argv[1]).take("features", "k", float(sys.argv[2]))
print("held" if claim else "not held", flush=True)
time.sleep(60)
"""


def _start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _read(store, key):
    with store.open("features", key) as folder:
        return (folder / "a.bin").read_bytes()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


@pytest.fixture
def elsewhere(monkeypatch):
    """Make other processes appear to run on another machine."""
    monkeypatch.setattr(claims, "_machine", lambda: "here")


def test_two_drivers_on_one_folder_compute_every_unit_once(tmp_path):
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    drivers = [_start(DRIVER, out, notes, name) for name in ("one", "two")]
    assert [driver.stdout.readline() for driver in drivers] == [b"ready\n"] * 2
    for driver in drivers:
        driver.stdin.close()
    assert [driver.wait(timeout=60) for driver in drivers] == [0, 0]
    computed = [note.name.split(".")[0] for note in notes.iterdir() for _ in note.read_text().splitlines()]
    assert sorted(computed) == sorted(f"unit{k}" for k in range(N_UNITS))
    assert {note.suffix for note in notes.iterdir()} == {".one", ".two"}, "both computed units"
    store = Store(str(out))
    assert all(_read(store, f"unit{k}") == f"unit{k}".encode() * 1000 for k in range(N_UNITS))
    assert store.claims.paths("features") == []


def test_threads_on_an_in_memory_filesystem_compute_every_unit_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_SETTLE_S", 0.001)
    computed, stores = [], [Store(f"memory://{tmp_path.name}") for _ in range(4)]

    def drive(store):
        left = [f"unit{k}" for k in range(N_UNITS)]
        while left:
            for key in list(left):
                with store.claim("features", key) as mine:
                    if mine:
                        computed.append(key)
                        store.put("features", key, lambda folder: (folder / "a.bin").write_bytes(b"abc"), {})
                if store.has("features", key):
                    left.remove(key)

    threads = [threading.Thread(target=drive, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == sorted(f"unit{k}" for k in range(N_UNITS))


def test_a_claim_is_held_until_it_is_released(store):
    with store.claim("features", "k") as mine:
        assert mine
        with Store(store.out).claim("features", "k") as other:
            assert not other
        assert store.claimed("features", "k").startswith("process ")
        assert not store.claimed("scores", "k")
    assert not store.claimed("features", "k")
    with store.claim("features", "k") as mine:
        assert mine


def test_a_claim_is_released_when_the_work_fails(store):
    with pytest.raises(RuntimeError), store.claim("features", "k"):
        raise RuntimeError("out of memory")
    assert not store.claimed("features", "k")


def test_a_finished_unit_cannot_be_claimed(store):
    store.put("features", "k", lambda folder: (folder / "a.bin").write_bytes(b"abc"), {})
    assert store.take("features", "k") is None
    assert not store.claimed("features", "k")


def test_the_claim_of_a_driver_killed_on_this_machine_is_free_at_once(store):
    process = _start(HOLDER, store.out, 60)
    assert process.stdout.readline() == b"held\n"
    assert store.take("features", "k") is None
    process.send_signal(signal.SIGKILL)  # without waiting: a zombie holds no claim
    while process.poll() is None and claims._start_time(process.pid) != "ended":
        time.sleep(0.01)
    claim = store.take("features", "k")
    assert claim is not None
    claim.release()
    assert store.claims.paths("features") == []
    process.wait()


def test_a_reused_process_id_holds_no_claim(store, monkeypatch):
    monkeypatch.setattr(claims, "_process", lambda: f"{claims.os.getpid()}@12345")
    store.claims.take("features", "k")
    claims._held.clear()
    monkeypatch.undo()
    assert not Store(store.out).claimed("features", "k")


def test_the_claim_of_a_driver_killed_elsewhere_is_free_after_its_time_to_live(store, elsewhere):
    process = _start(HOLDER, store.out, 0.8)
    assert process.stdout.readline() == b"held\n"
    deadline = time.monotonic() + 1.6
    while time.monotonic() < deadline:  # twice its time to live, since it renews the claim
        assert store.take("features", "k") is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    killed = time.monotonic()
    while (claim := store.take("features", "k")) is None:
        assert time.monotonic() - killed < 10
        time.sleep(0.05)
    assert time.monotonic() - killed > 0.2, "it was alive at its last renewal"
    claim.release()


def test_only_one_of_several_drivers_takes_over_a_dead_claim(store):
    process = _start(HOLDER, store.out, 60)
    process.stdout.readline()
    process.kill()
    process.wait()
    drivers = [_start(HOLDER, store.out, 60) for _ in range(4)]
    outputs = sorted(driver.stdout.readline() for driver in drivers)
    for driver in drivers:
        driver.kill()
        driver.wait()
    assert outputs == [b"held\n", b"not held\n", b"not held\n", b"not held\n"]


def test_an_empty_claim_file_is_free_after_the_time_to_live(store, monkeypatch):
    """The holder was killed between creating the file and writing to it."""
    monkeypatch.setattr(claims, "TTL_S", 0.2)
    store.fs.makedirs(f"{store.root}/.claims/features")
    store.fs.touch(f"{store.root}/.claims/features/k.000000")
    assert store.take("features", "k") is None
    time.sleep(0.3)
    claim = store.take("features", "k")
    assert claim is not None
    claim.release()


def test_a_holder_notices_that_its_claim_was_taken_over(store, caplog):
    claim = store.claims.take("features", "k", ttl_s=0.2)
    store.fs.rm_file(claim.path)
    deadline = time.monotonic() + 5
    while not claim.is_lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert claim.is_lost
    assert "taken over" in caplog.text
    claim.release()


def test_renewal_continues_after_a_failed_renewal(store, monkeypatch, caplog):
    claim = store.claims.take("features", "k", ttl_s=0.2)
    content = store.fs.cat_file(claim.path)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(store.fs), "pipe_file", full)
    deadline = time.monotonic() + 5
    while "could not be renewed" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    monkeypatch.undo()
    while store.fs.cat_file(claim.path) in {content, b""} and time.monotonic() < deadline:
        time.sleep(0.02)
    assert store.fs.cat_file(claim.path) != content
    assert not claim.is_lost
    claim.release()


def test_a_claim_survives_an_unreachable_filesystem(tmp_path, monkeypatch):
    """fsspec's `exists` returns False when the filesystem cannot be reached."""
    store = Store(f"memory://{tmp_path.name}")
    claim = store.take("features", "k", ttl_s=0.2)
    calls = []

    def info(fs, path, **_):
        calls.append(path)
        raise ConnectionError("the storage does not answer")

    monkeypatch.setattr(type(store.fs), "info", info)
    deadline = time.monotonic() + 10
    while len(calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    monkeypatch.undo()
    assert len(calls) >= 3
    assert not claim.is_lost
    claim.release()
    assert store.claims.paths("features") == []


@pytest.mark.parametrize("kind", ["refuses the mode", "ignores the mode"])
def test_a_claim_on_a_filesystem_without_exclusive_create_is_read_back(kind, tmp_path, monkeypatch):
    store = Store(f"memory://{tmp_path.name}")
    plain = type(store.fs).pipe_file

    def pipe_file(fs, path, value, mode="overwrite", **_):
        if mode == "create" and kind == "refuses the mode":
            raise NotImplementedError
        plain(fs, path, value)
        if b'"overtaken"' not in value and path.endswith("lost.000000"):  # another driver writes just afterwards
            plain(fs, path, value.replace(b'"owner": "', b'"owner": "another'))

    monkeypatch.setattr(type(store.fs), "pipe_file", pipe_file)
    assert store.take("features", "lost") is None
    claim = store.take("features", "k")
    assert claim is not None
    claim.release()


def test_waiting_returns_whether_the_unit_was_finished(store):
    assert not store.wait("features", "k", timeout_s=5), "no process computes it"
    claim = store.take("features", "k")
    assert not Store(store.out).wait("features", "k", timeout_s=0.1), "it takes longer"

    def finish():
        store.put("features", "k", lambda folder: (folder / "a.bin").write_bytes(b"abc"), {})
        claim.release()

    threading.Timer(0.2, finish).start()
    assert Store(store.out).wait("features", "k", timeout_s=10)


def test_a_driver_interrupted_while_claiming_leaves_no_claim(store, monkeypatch):
    """The signal may arrive after the file is written and before the claim is held."""
    list_files, calls = claims.Claims._files, []

    def stopped(self, kind, key):
        calls.append(key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return list_files(self, kind, key)

    monkeypatch.setattr(claims.Claims, "_files", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.take("features", "k")
    monkeypatch.undo()
    claim = store.take("features", "k")  # without waiting, since there is no holder
    assert claim is not None
    assert claim.path.endswith(".000000")
    claim.release()


def test_a_full_disk_leaves_no_empty_claim(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def full(holder):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(claims, "_encode", full)
        with pytest.raises(OSError, match="no space left"):
            store.claims.take("scores", "a")
    assert store.claims.paths("scores") == []
    claim = store.claims.take("scores", "a")
    assert claim is not None
    claim.release()
