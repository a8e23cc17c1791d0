import json
import os
import time

import pyarrow.parquet as pq
import pytest

from harness.cli.commands import main
from harness.storage import inventory, tables
from harness.storage.origin import FEATURES_VERSION, SCORES_VERSION
from harness.storage.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    store = Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}")
    _put(store, "features", "f" * 32, FEATURES_VERSION, model="gpt2", context="passage")
    _put(store, "scores", "a" * 32, SCORES_VERSION, model="gpt2", dataset="pereira2018", protocol="strict")
    _put(store, "scores", "b" * 32, SCORES_VERSION - 1, model="gpt2", dataset="pereira2018", protocol="paper")
    return store


def _put(store, kind, key, schema, **facts):
    content = f"{kind} {key}".encode()
    store.put(kind, key, lambda folder: (folder / "a.bin").write_bytes(content), {"schema": schema, **facts})


def _used(store, kind, key):
    """Write the table `units` of a run that uses a unit."""
    row = {"run": "r1", "kind": kind, "key": key, "model": "", "dataset": "", "protocol": ""}
    folder = f"{store.root.rpartition('/')[0]}/tables/units/run=r1"
    store.fs.makedirs(folder)
    with store.fs.open(f"{folder}/part-0.parquet", "wb") as stream:
        pq.write_table(tables.rows_to_arrow("units", [row]).drop_columns(["run"]), stream)


def _listed(store):
    return {(unit.kind, unit.key[0]): unit for unit in inventory.ls(store)}


def test_every_unit_is_listed_with_its_model_data_set_and_protocol(store):
    units = _listed(store)
    assert set(units) == {("features", "f"), ("scores", "a"), ("scores", "b")}
    assert (units["scores", "a"].model, units["scores", "a"].dataset, units["scores", "a"].protocol) == (
        "gpt2", "pereira2018", "strict",
    )  # fmt: skip
    assert units["features", "f"].protocol == "passage"
    assert units["scores", "a"].bytes == len("scores ") + 32


def test_states_of_units(store):
    store.fs.rm(f"{store.folder('features', 'f' * 32)}/a.bin")
    store.fs.makedirs(store.folder("scores", "c" * 32))
    store.fs.pipe_file(f"{store.folder('scores', 'c' * 32)}/a.bin", b"half")
    claim = store.claims.take("scores", "a" * 32)
    states = {key: unit.state for key, unit in _listed(store).items()}
    claim.release()
    assert states == {
        ("features", "f"): "damaged", ("scores", "a"): "computing", ("scores", "b"): "outdated",
        ("scores", "c"): "unfinished",
    }  # fmt: skip


def test_a_corrupt_unit_is_reported_with_its_file_and_removed_and_the_others_stay(store):
    with store.fs.open(f"{store.folder('scores', 'a' * 32)}/a.bin", "wb") as stream:
        stream.write(b"x" * (len("scores ") + 32))
    progress = []
    n_units, n_bytes, (error,) = inventory.verify(store, lambda *sizes: progress.append(sizes))
    assert n_units == 3 and n_bytes < progress[-1][1]  # the corrupt unit is not counted
    assert (error.kind, error.key, error.file) == ("scores", "a" * 32, "a.bin")
    assert not store.has("scores", "a" * 32)
    assert store.has("features", "f" * 32)
    assert inventory.verify(store)[2] == []


def test_units_of_an_older_version_are_unused_and_units_in_a_runs_tables_are_not(store):
    assert [files.key[0] for files in inventory.unused_files(store)] == ["b"]
    _used(store, "scores", "a" * 32)
    assert sorted(files.key[0] for files in inventory.unused_files(store, unused=True)) == ["b", "f"]
    assert _listed(store)["scores", "a"].runs == ("r1",)


def test_gc_removes_exactly_the_listed_files(store):
    inventory.remove(store, inventory.unused_files(store))
    assert set(_listed(store)) == {("features", "f"), ("scores", "a")}


def test_units_being_computed_are_not_removed(store):
    files = inventory.unused_files(store)
    claim = store.claims.take("scores", "b" * 32)
    assert inventory.unused_files(store) == []
    with pytest.raises(ValueError, match="is computing scores unit bbb"):
        inventory.unused_files(store, unused=True)
    inventory.remove(store, files)  # the unit was claimed after listing
    assert ("scores", "b") in _listed(store)
    claim.release()


def test_temporary_files_of_killed_runs_are_unused_after_a_day(tmp_path):
    store = Store(str(tmp_path))
    old, young = tmp_path / "units" / ".aside-1", tmp_path / "tables" / ".aside-2"
    half = tmp_path / "units" / "features" / ("e" * 32)
    for folder in (old, young, half):
        folder.mkdir(parents=True)
        (folder / "a.bin").write_bytes(b"half")
    for folder in (old, half):
        os.utime(folder / "a.bin", (time.time() - 2 * 24 * 3600,) * 2)
    assert {files.path for files in inventory.unused_files(store)} == {str(old), str(half)}
    inventory.remove(store, inventory.unused_files(store))
    assert young.exists() and not old.exists() and not half.exists()


def test_the_claim_of_a_process_that_has_ended_is_unused(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    claim = store.claims.take("scores", "a" * 32)
    assert inventory.unused_files(store) == []
    monkeypatch.setattr("harness.storage.claims._is_alive", lambda process: False)
    (files,) = inventory.unused_files(store)
    assert files.path == claim.path
    inventory.remove(store, [files])
    claim.release()
    assert store.claims.paths("scores") == []


def test_gc_lists_files_and_removes_them_only_with_yes(tmp_path, capsys):
    store = Store(str(tmp_path))
    _put(store, "scores", "b" * 32, SCORES_VERSION - 1, model="gpt2")
    assert main(["cache", "gc", str(tmp_path)]) == 0
    assert "would remove 1 file" in capsys.readouterr().out
    assert store.has("scores", "b" * 32)
    assert main(["cache", "gc", str(tmp_path), "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["removed"] and said["waste"][0]["key"] == "b" * 32
    assert not store.has("scores", "b" * 32)


def test_verify_fails_if_a_unit_is_corrupt(tmp_path, capsys):
    store = Store(str(tmp_path))
    _put(store, "scores", "b" * 32, SCORES_VERSION, model="gpt2")
    assert main(["cache", "verify", str(tmp_path)]) == 0
    with (tmp_path / "units" / "scores" / ("b" * 32) / "a.bin").open("r+b") as stream:
        stream.write(b"X")
    assert main(["cache", "verify", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "a.bin is corrupt: written with sha256" in said and "the next run computes it again" in said
    assert main(["cache", "ls", str(tmp_path)]) == 0
    assert "0 units" in capsys.readouterr().out


def test_a_folder_without_units_is_a_usage_error(tmp_path, capsys):
    assert main(["cache", "ls", str(tmp_path / "nowhere")]) == 2
    assert "no units under" in capsys.readouterr().err


def test_while_a_run_is_in_progress_nothing_is_unused_or_outdated(store):
    with store.register_run():
        assert len(store.workers()) == 1
        with pytest.raises(ValueError, match=r"process \d+ on .* is running here, and the units it has stored"):
            inventory.unused_files(store, unused=True)
        assert [files.why for files in inventory.unused_files(store)] == []
    assert store.workers() == []
    assert [files.why for files in inventory.unused_files(store)] == ["from another version of the harness"]


def test_files_that_disappear_during_a_look_are_of_a_run_at_work_and_not_unused(store, monkeypatch):
    folder = f"{store.root.rpartition('/')[0]}/.aside-of-another-driver"
    store.fs.makedirs(folder)
    store.fs.pipe_file(f"{folder}/words.parquet", b"x")

    def vanish(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(type(store.fs), "modified", lambda fs, path: vanish(path))
    assert not [row for row in inventory.unused_files(store) if folder in row.path]
