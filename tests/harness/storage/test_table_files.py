"""Damaged files of a run's tables are detected and named."""

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from harness.cli.commands import main
from harness.runs import assemble
from harness.storage import inventory, table_files, tables
from harness.storage.store import Store
from harness.storage.table_files import DamagedTablesError

RUN = "r-1"


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """A store with two runs, whose tables have one row or none."""
    store = Store(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}")
    for run in (RUN, "r-2"):
        put(store, run)
    return store


def put(store, run, status="done"):
    failure = {"model": "m", "dataset": "d", "protocol": "", "stage": "s", "exception": "e", "message": "m"}
    for table in table_files.run_tables():
        rows = [{"run": run, "created": "now", **failure}] if table == "failures" else []
        if table == "runs":
            row = dict.fromkeys(tables.SCHEMAS["runs"])
            rows = [row | {"run": run, "status": status, "started": run}]
        assemble.write_rows(store, run, table, rows)
    table_files.write(store.fs, assemble.root_of(store), run)


def file_of(store, table, run=RUN):
    (path,) = store.fs.glob(f"{assemble.root_of(store)}/tables/{table}/run={run}/*.parquet")
    return path


def flip(file, at):
    """Flip one bit of a file without changing its size or dates."""
    content, stat = bytearray(Path(file).read_bytes()), Path(file).stat()
    content[at] ^= 1 << at % 8
    Path(file).write_bytes(bytes(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_intact_tables_are_read_and_count_as_complete(store):
    assert tables.read(store.out, "failures", RUN)["model"].tolist() == ["m"]
    assert len(tables.read(store.out, "failures")) == 2
    assert tables.holds(store.out, RUN)
    assert inventory.damaged_tables(store) == []


@pytest.mark.parametrize(("damage", "message"), [
    (lambda store, path: store.fs.rm(path), r"part-0\.parquet is missing"),
    (lambda store, path: store.fs.pipe_file(path, store.fs.cat_file(path)[:-9]), r"was written with \d+ bytes and has"),
    (lambda store, path: store.fs.cp_file(path, path.replace("part-0", "part-1")), r"part-1\.parquet does not belong"),
])  # fmt: skip
def test_a_missing_truncated_or_foreign_file_is_named_and_other_runs_are_read(store, caplog, damage, message):
    damage(store, file_of(store, "failures"))
    with pytest.raises(DamagedTablesError, match=rf"the tables of run r-1 are damaged: failures/run=r-1/.*{message}"):
        tables.read(store.out, "failures", RUN)
    assert not tables.holds(store.out, RUN)
    assert len(tables.read(store.out, "failures", "r-2")) == 1
    with caplog.at_level(logging.WARNING):
        assert tables.read(store.out, "failures")["run"].tolist() == ["r-2"]
    assert "Its rows are left out" in caplog.text
    assert len(inventory.damaged_tables(store)) == 1


def test_a_missing_partition_is_named(store):
    store.fs.rm(f"{assemble.root_of(store)}/tables/runs/run={RUN}", recursive=True)
    with pytest.raises(DamagedTablesError, match=r"runs/run=r-1/part-0\.parquet is missing"):
        tables.read(store.out, "runs", RUN)
    assert tables.pick_run(store.out)["run"] == "r-2"


def test_every_flipped_bit_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PAUSES_S", ())  # no retries
    store = Store(str(tmp_path))
    put(store, RUN)
    draw = np.random.default_rng(0)
    for _ in range(50):
        table = str(draw.choice(table_files.run_tables()))
        file = file_of(store, table)
        at = int(draw.integers(Path(file).stat().st_size))
        flip(file, at)
        with pytest.raises(DamagedTablesError, match="is not what was written"):
            tables.read(store.out, table, RUN)
        flip(file, at)
        tables.read(store.out, table, RUN)


def test_verify_names_damaged_tables(tmp_path, capsys):
    store = Store(str(tmp_path))
    put(store, RUN)
    store.require_writable()
    flip(file_of(store, "runs"), 100)
    assert main(["cache", "verify", str(tmp_path)]) == 1
    assert "tables of run r-1: runs/run=r-1/part-0.parquet is not what was written" in capsys.readouterr().out


def test_tables_without_a_list_are_read_unchecked(store):
    table_files.forget(store.fs, assemble.root_of(store), RUN)
    store.fs.pipe_file(f"{assemble.root_of(store)}/tables/failures/run={RUN}/more.txt", b"")
    assert tables.holds(store.out, RUN)


@pytest.mark.parametrize("run", ["../..", "a/b", "..", ".hidden", "", "a\0b", "a\nb"])
def test_nothing_is_removed_for_an_invalid_run_name(store, run):
    with pytest.raises(ValueError, match="is not the name of a run"):
        tables.remove(store.out, run)
    assert tables.holds(store.out, RUN)


def test_removing_a_run_removes_its_list(store):
    tables.remove(store.out, RUN)
    assert table_files.listed(store.fs, assemble.root_of(store)) == ["r-2"]
    assert tables.read(store.out, "runs")["run"].tolist() == ["r-2"]


def test_drivers_write_the_tables_of_a_run_in_turn_and_readers_find_them(tmp_path):
    out, errors = str(tmp_path), []
    put(Store(out), RUN)

    def drive():
        store = Store(out)
        for _ in range(8):
            try:
                with store.lock_tables(RUN):
                    table_files.forget(store.fs, assemble.root_of(store), RUN)
                    put(store, RUN)
                assert len(tables.read(out, "failures", RUN)) == 1
            except Exception as error:  # noqa: BLE001 - asserted below
                errors.append(error)

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert tables.holds(out, RUN)
