import os
import signal
import subprocess
import sys
import time

import pytest

from harness.store import Store


def _write(content):
    return lambda folder: (folder / "a.bin").write_bytes(content)


def _read(store):
    with store.open("scores", "k") as folder:
        return (folder / "a.bin").read_bytes()


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path / "out"))
    return Store(f"memory://{tmp_path.name}")


def test_a_unit_that_was_put_can_be_opened(store):
    assert store.manifest("scores", "k") is None
    store.put("scores", "k", _write(b"abc"), {"model": "m"})
    assert store.manifest("scores", "k")["model"] == "m"
    assert _read(store) == b"abc"


def test_a_unit_that_was_cut_short_does_not_count_as_there_and_is_replaced(store):
    store.put("scores", "k", _write(b"abc"), {})
    with store.fs.open(f"{store.folder('scores', 'k')}/a.bin", "wb") as stream:
        stream.write(b"a")
    assert store.manifest("scores", "k") is None
    store.put("scores", "k", _write(b"abc"), {})
    assert _read(store) == b"abc"


def test_a_changed_file_is_found_by_its_checksum_and_named(store):
    store.put("scores", "k", _write(b"abc"), {})
    with store.fs.open(f"{store.folder('scores', 'k')}/a.bin", "wb") as stream:
        stream.write(b"abd")
    with pytest.raises(ValueError, match=r"a\.bin is corrupt"):
        _read(store)
    assert not store.has("scores", "k")
    store.put("scores", "k", _write(b"abc"), {})
    assert store.has("scores", "k")
    assert _read(store) == b"abc"


def test_a_unit_whose_manifest_is_missing_is_not_there(store):
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


def test_the_first_of_two_writers_wins_and_both_are_content(store):
    def overtaken(folder):
        store.put("scores", "k", _write(b"first"), {})
        (folder / "a.bin").write_bytes(b"later")

    store.put("scores", "k", overtaken, {})
    assert _read(store) == b"first"


def test_a_writer_killed_at_any_moment_leaves_nothing_that_counts(tmp_path):
    """SIGKILL in the middle of a large write: the unit is absent, and the next run makes it."""
    script = (
        "import sys; from harness.store import Store\n"
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


def test_only_old_leftovers_are_swept(tmp_path):
    store = Store(str(tmp_path))
    old, fresh = (tmp_path / "units" / f".aside-{name}" for name in ("old", "fresh"))
    old.mkdir(parents=True)
    fresh.mkdir()
    os.utime(old, (0, 0))
    store.sweep()
    assert not old.exists()
    assert fresh.exists()
