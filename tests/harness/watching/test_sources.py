"""Listing the checkpoints of a source: which exist, are complete, intact, and changed."""

from __future__ import annotations

import os
import shutil
import time

import fsspec
import pytest

from harness.checkpoints import hub
from harness.watching import sources


@pytest.fixture(scope="module")
def checkpoint(shared):
    return shared / "models" / "stories260K-instruct" / "step-0050"


@pytest.fixture
def source(checkpoint, tmp_path):
    """A training with three checkpoints, written an hour ago."""
    for name in ("step-200", "step-50", "step-1000"):
        copy(checkpoint, tmp_path / "training" / name)
    return tmp_path / "training"


def copy(checkpoint, folder, age_s=3600):
    folder.mkdir(parents=True)
    for file in checkpoint.iterdir():
        shutil.copyfile(file, folder / file.name)
        os.utime(folder / file.name, (time.time() - age_s,) * 2)


def names(found):
    return [one.where.rpartition("/")[2] for one in found]


def test_checkpoints_are_sorted_by_step(source):
    found = sources.list_checkpoints(str(source))
    assert names(found) == ["step-50", "step-200", "step-1000"]
    assert all(not one.waits_for and not one.damage and one.model == one.where for one in found)
    assert len({one.fingerprint for one in found}) == 3
    assert sources.list_checkpoints(str(source)) == found


def test_a_source_can_be_a_single_checkpoint(source):
    assert names(sources.list_checkpoints(str(source / "step-50"))) == ["step-50"]


def test_a_checkpoint_is_complete_once_its_files_are_unchanged_for_a_while_or_it_has_a_marker(source, checkpoint):
    copy(checkpoint, source / "step-2000", age_s=2)
    last = sources.list_checkpoints(str(source))[-1]
    assert "unchanged for 60 s (last written 2 s ago)" in last.waits_for
    assert not sources.list_checkpoints(str(source), quiet_s=1)[-1].waits_for
    (source / "step-2000" / "COMPLETE").touch()
    assert not sources.list_checkpoints(str(source))[-1].waits_for


def test_with_a_named_marker_only_marked_checkpoints_are_complete(source):
    (source / "step-50" / "finished").touch()
    found = sources.list_checkpoints(str(source), marker="finished")
    assert [one.waits_for for one in found] == ["", "its marker file finished", "its marker file finished"]


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: os.truncate(folder / "model.safetensors", 500_000), "promises 1044992 bytes, the file has 500000"),
    (lambda folder: (folder / "model.safetensors").write_bytes(bytes(range(256)) * 20), "damaged"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    (lambda folder: (folder / "config.json").write_text('{"model_ty'), "not JSON"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json"),
])  # fmt: skip
def test_a_damaged_checkpoint_has_a_reason(source, damage, message):
    damage(source / "step-200")
    found = sources.list_checkpoints(str(source))
    assert [bool(one.damage) for one in found] == [False, True, False]
    assert message in found[1].damage


def test_a_change_in_place_changes_the_fingerprint_even_with_equal_size_and_date(source):
    before = sources.list_checkpoints(str(source))
    file = source / "step-200" / "model.safetensors"
    content, stamp = bytearray(file.read_bytes()), file.stat()
    content[-5] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = sources.list_checkpoints(str(source))
    assert [one.fingerprint == other.fingerprint for one, other in zip(before, after, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_list_can_contain_folders_and_hub_models(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        hub, "commits_by_ref", lambda hub_id, pull_requests=False: {"main": "c" * 40, "step7": "d" * 40}
    )
    (tmp_path / "list.txt").write_text(f"{source / 'step-50'}  # first\n\norg/model@step7\norg/other\n")
    found = sources.list_checkpoints(str(tmp_path / "list.txt"))
    assert {one.model for one in found} == {str(source / "step-50"), "org/model@step7", "org/other"}
    (tmp_path / "list.txt").write_text("org/model@step8\n")
    with pytest.raises(ValueError, match=r"org/model@step8 is not among the 2 revisions"):
        sources.list_checkpoints(str(tmp_path / "list.txt"))


def test_a_repository_lists_its_revisions_and_a_training_of_the_table_only_its_steps(monkeypatch):
    heads = {"main": "a" * 40, "step1000": "b" * 40, "step2000": "c" * 40, "odd": "d" * 40}
    monkeypatch.setattr(hub, "commits_by_ref", lambda hub_id, pull_requests=False: heads)
    found = {one.model: one.fingerprint for one in sources.list_checkpoints("org/model")}
    assert found == {f"org/model@{name}": commit for name, commit in heads.items()}
    assert [one.model for one in sources.list_checkpoints("pythia-1b")] == ["pythia-1b@step1000", "pythia-1b@step2000"]
    heads["step1000"] = "e" * 40
    assert {one.model: one.fingerprint for one in sources.list_checkpoints("pythia-1b")}[
        "pythia-1b@step1000"
    ] == "e" * 40


def test_a_bucket_is_listed_and_a_checkpoint_downloaded_once(checkpoint, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.rm("/watched", recursive=True) if fs.exists("/watched") else None
    for file in checkpoint.iterdir():
        fs.pipe_file(f"/watched/run/step-5/{file.name}", file.read_bytes())
    fs.pipe_file("/watched/run/step-5/optimizer.pt", b"not fetched")
    fs.pipe_file("/watched/run/step-6/config.json", b"{}")
    one, other = sources.list_checkpoints("memory://watched/run", quiet_s=0)
    assert one.where.startswith("memory://")
    assert (one.damage, other.damage) == ("", "no *.safetensors")
    folder = sources.download(one, tmp_path)
    assert folder.endswith("run/step-5")
    assert {file.name for file in checkpoint.iterdir()} == {
        name.name for name in (tmp_path / one.fingerprint).rglob("*.*")
    }
    fs.rm("/watched/run/step-5/model.safetensors")
    assert sources.download(one, tmp_path) == folder
    assert not list(tmp_path.rglob("*.aside"))


def test_a_missing_source_is_named():
    with pytest.raises(FileNotFoundError, match="memory://nowhere"):
        sources.list_checkpoints("memory://nowhere")
    with pytest.raises(ValueError, match="neither a folder"):
        sources.list_checkpoints("no-such-model")
