"""Whole runs of the quickstart: the planted effects are found, a second run computes nothing, failures are isolated."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from pandas.testing import assert_frame_equal
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from harness import datasets
from harness.report import page
from harness.runs import assemble, pipeline, ray_session
from harness.runs.pipeline import RunOptions
from harness.runs.workload import make_workload
from harness.spec import quickstart as quickstart_spec
from harness.storage import table_files, tables
from harness.storage.store import Store
from harness.storage.table_files import DamagedTablesError
from harness.units import quickstart
from tests.harness import earlier_files

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def out(finished_quickstart, tmp_path_factory):
    return finished_quickstart.copy_to(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def outcome(finished_quickstart):
    return finished_quickstart.outcome


def _scores(out, run, protocol):
    frame = tables.read(out, "model_scores", run)
    frame = frame[(frame.target == "all") & (frame.protocol == protocol)]
    return frame.set_index("model")


def test_everything_is_computed_and_nothing_fails(outcome):
    assert outcome.failures == ()
    assert outcome.n_computed == outcome.n_units > 40


def test_strict_finds_the_planted_model_and_layer(out, outcome):
    scores = _scores(out, outcome.run, "strict")
    best = scores.loc[scores.r.idxmax()]
    assert (best.name, best.stack, best.layer) == ("tiny-llama", "decoder", 3)
    assert best.r_low > scores.drop(best.name).r.max()
    assert 0.7 < best.ratio < 1
    layers = tables.read(out, "layer_scores", outcome.run)
    layers = layers[(layers.model == "tiny-llama") & (layers.protocol == "strict") & (layers.target == "all")]
    assert layers.loc[layers.r.idxmax(), "layer"] == 3


def test_the_time_only_control_matches_the_best_model_only_under_shuffled_splits(out, outcome):
    shuffled, grouped = (_scores(out, outcome.run, protocol) for protocol in ("paper", "strict"))
    assert shuffled.loc["oasm", "r"] > shuffled.loc["tiny-llama", "r"] - 0.05
    # Its prediction is constant within a new topic, so that r is not defined for any voxel.
    assert np.isnan(grouped.loc["oasm", "r"])
    assert grouped.loc["oasm", "n_nan"] == grouped.loc["oasm", "n_neuroids"] == 60


def test_the_planted_models_unique_variance_is_close_to_the_planted_variance(out, outcome):
    """A fit on 270 sentences recovers part of the signal's 0.30, under STRICT less, since the other 0.70 counts too."""
    for protocol in ("strict", "paper"):
        scores = _scores(out, outcome.run, protocol)
        assert scores.loc["tiny-llama", "unique_low"] > 0.1
        assert 0.15 < scores.loc["tiny-llama", "unique_r2"] < 0.3
        others = scores[scores.kind != "control"].drop("tiny-llama")
        assert (others.unique_r2.abs() < 0.01).all()
        assert (others.unique_low <= 1e-3).all()
        assert scores[scores.kind == "control"].unique_r2.isna().all()
        np.testing.assert_array_less(scores.loc["tiny-llama", "controls_r2"], scores.loc["tiny-llama", "joint_r2"])
        time_only = "oasm, " if protocol == "paper" else ""  # which says nothing about new topics
        assert scores.loc["tiny-llama", "unique_over"] == (
            f"length, word-rate, position, {time_only}drift, frequency, input-embeddings"
        )


def test_the_stored_folds_are_those_of_scikit_learn(out, outcome):
    from sklearn.model_selection import ShuffleSplit

    folds = tables.read(out, "folds", outcome.run)
    recording = datasets.load("synthetic", quickstart.folder_of(out))
    ids = np.array(recording.responses.row_ids)
    folds_found = folds[(folds.dataset == "synthetic") & (folds.protocol == "paper")]
    for k, (train, test) in enumerate(ShuffleSplit(10, test_size=0.1, random_state=1).split(ids)):
        for subset, rows in (("train", train), ("test", test)):
            assert list(folds_found[(folds_found.fold == k) & (folds_found.subset == subset)].row_id) == list(ids[rows])
    strict = folds[(folds.dataset == "synthetic") & (folds.protocol == "strict")]
    topic = strict.row_id.str.split(".").str[0]
    assert strict.assign(topic=topic).groupby(["fold", "topic"]).subset.nunique().max() == 1
    assert set(folds[folds.dataset == "synthetic-reading"].protocol) == {"strict"}


def test_the_planted_surprisal_is_found_in_the_reading_times(out, outcome):
    scores = tables.read(out, "reading_scores", outcome.run)
    strict = scores[scores.protocol == "strict"].set_index("model")
    assert strict.delta_ll.idxmax() == "tiny-gpt2"
    assert strict.loc["tiny-gpt2", "delta_ll_low"] > strict.drop("tiny-gpt2").delta_ll.max()
    assert strict.loc["length", "delta_ll"] == pytest.approx(0, abs=1e-3)


def test_every_table_can_be_read_by_pandas_and_duckdb(out, outcome):
    import duckdb
    import pandas as pd

    for table in (name for name in tables.SCHEMAS if "run" in tables.SCHEMAS[name]):
        folder = tables.folder(out, table)
        ours = tables.read(out, table)
        assert list(ours) == list(tables.SCHEMAS[table])
        assert len(pd.read_parquet(folder)) == len(ours)
        found = duckdb.sql(f"select count(*) from read_parquet('{folder}/**/*.parquet', hive_partitioning = true)")  # noqa: S608
        assert found.fetchall() == [(len(ours),)]


@pytest.mark.slow
def test_every_table_can_be_read_by_ray_data(out, outcome):
    ray_session.start(None)  # Ray Data by itself would join any cluster that runs on this machine
    for table in (name for name in tables.SCHEMAS if "run" in tables.SCHEMAS[name]):
        if n_rows := len(tables.read(out, table)):
            assert ray.data.read_parquet(tables.folder(out, table)).count() == n_rows, table


def test_each_row_has_what_is_needed_to_reproduce_it(out, outcome):
    for table in ("neuroid_scores", "layer_scores", "model_scores", "reading_scores", "word_surprisals"):
        frame = tables.read(out, table, outcome.run)
        assert len(frame)
        wanted = [
            "run",
            "dataset",
            "dataset_version",
            "protocol",
            "protocol_hash",
            "context",
            "code_version",
            "created",
            "metric",
        ]
        assert (frame[wanted] != "").all(axis=None)
        assert frame[wanted].notna().all(axis=None)
        assert (frame[frame.kind != "control"].revision.str.startswith("files-")).all()


def test_score_ceiling_and_ratio_are_consistent(out, outcome):
    frame = tables.read(out, "neuroid_scores", outcome.run)
    np.testing.assert_allclose(frame.ratio, frame.r / frame.ceiling)
    assert (frame.r.isna() == (frame.n_folds_nan == frame.n_folds)).all()


def test_a_second_run_computes_nothing_and_changes_nothing(out, outcome):
    before = {table: tables.read(out, table) for table in tables.SCHEMAS}
    again = pipeline.run(quickstart_spec(), out)
    assert (again.run, again.n_computed, again.n_reused) == (outcome.run, 0, outcome.n_units)
    for table, frame in before.items():
        assert frame.equals(tables.read(out, table)), table


def test_lost_tables_are_assembled_again_from_the_units(out, outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_session, "join", None)  # small tables need no Ray
    copy = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(copy / "tables")
    again = pipeline.run(quickstart_spec(), str(copy))
    assert again.n_computed == 0
    assert_same_tables(copy, out, outcome.run)


def assert_same_tables(copy, out, run):
    for table in assemble.SCORE_TABLES:
        assert_same_rows(tables.read(str(out), table, run), tables.read(str(copy), table, run))
        folders = [{path.parent.relative_to(root) for path in (root / "tables" / table).glob(f"run={run}/**/*.parquet")}
                   for root in (Path(out), copy)]  # fmt: skip
        assert folders[0] == folders[1]


def assert_same_rows(one, other):
    columns = [name for name in one if name not in {"created", "code_version"}]
    assert_frame_equal(_sorted(one, columns)[columns], _sorted(other, columns)[columns])


@pytest.mark.slow
def test_units_of_an_earlier_version_are_not_computed_again_and_their_passages_are_in_the_tables(
    out, outcome, tmp_path
):
    copy = shutil.copytree(out, tmp_path / "copy")
    units = earlier_files.rewrite_units(str(copy), "scores", "word_surprisals.parquet")
    assert units
    shutil.rmtree(copy / "tables")
    again = pipeline.run(quickstart_spec(), str(copy))
    assert (again.run, again.n_computed, again.n_reused) == (outcome.run, 0, outcome.n_units)
    columns = ["dataset", "protocol", "model", "word_id", "passage", "surprisal_bits"]
    ours, theirs = (_sorted(tables.read(place, "word_surprisals", again.run), columns) for place in (str(copy), out))
    assert ours.equals(theirs)
    assert ours.passage.notna().all()


def test_a_run_of_an_earlier_version_is_finished_and_its_report_is_the_same(out, outcome, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    for table in earlier_files.NAMES:
        for file in (copy / "tables" / table).rglob("*.parquet"):
            earlier_files.rewrite(table, file)
    earlier_files.rewrite_units(str(copy), "scores", "word_surprisals.parquet")
    table_files.write(Store(str(copy)).fs, str(copy), outcome.run)
    before = {file: file.stat().st_mtime_ns for file in (copy / "tables").rglob("*.parquet")}
    again = pipeline.run(quickstart_spec(), str(copy))
    assert (again.run, again.n_computed, again.n_reused) == (outcome.run, 0, outcome.n_units)
    assert {file: file.stat().st_mtime_ns for file in (copy / "tables").rglob("*.parquet")} == before
    for table in tables.SCHEMAS:
        assert_frame_equal(tables.read(str(copy), table), tables.read(out, table))
    assert page.markdown(str(copy)).replace(str(copy), str(out)) == page.markdown(str(out))


@pytest.mark.slow
def test_a_corrupt_unit_is_computed_again_and_a_lost_table_is_assembled_again(out, outcome, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    for kind in ("scores", "features"):
        file = max((copy / "units" / kind).glob("*/*.[ps]a*"), key=lambda file: file.stat().st_size)
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 3] ^= 1
        file.write_bytes(raw)
    shutil.rmtree(copy / "tables" / "layer_scores")
    again = pipeline.run(quickstart_spec(), str(copy))
    assert (again.n_computed, again.failures) == (1, ())
    columns = ["dataset", "protocol", "model", "stack", "layer", "neuroid_id", "r"]
    ours, theirs = (_sorted(tables.read(place, "neuroid_scores", outcome.run), columns) for place in (str(copy), out))
    assert ours.equals(theirs)
    assert len(tables.read(str(copy), "layer_scores", outcome.run)) > 50


def _sorted(frame, columns):
    return frame.sort_values(columns)[columns].reset_index(drop=True)


def _flip(file):
    """Flip one bit of a file, keeping its size and times."""
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
def test_a_flipped_bit_in_a_score_unit_or_a_table_is_detected_and_repaired(out, outcome):
    before = tables.read(out, "model_scores", outcome.run)
    scores = sorted(Path(out, "units", "scores").glob("*/model_scores.parquet"))
    _flip(scores[0])
    again = pipeline.run(quickstart_spec(), out)
    assert (again.run, again.n_computed, again.failures) == (outcome.run, 1, ())
    _flip(next(Path(out, "tables", "layer_scores").rglob("*.parquet")))
    with pytest.raises(DamagedTablesError, match="is not what was written"):
        tables.read(out, "layer_scores", outcome.run)
    once_more = pipeline.run(quickstart_spec(), out)
    assert (once_more.n_computed, once_more.failures) == (0, ())
    tables.read(out, "layer_scores", outcome.run)
    after = tables.read(out, "model_scores", outcome.run)
    key = ["model", "dataset", "protocol", "target"]
    after, before = (frame.sort_values(key, ignore_index=True) for frame in (after, before))
    assert_frame_equal(after.drop(columns="created"), before.drop(columns="created"))


@pytest.fixture
def with_broken_models(out, outcome, tmp_path):
    """An intact model under four names, two of them unusual, and three broken models."""
    built = quickstart.folder_of(out)
    names = {
        name: shutil.copytree(built / "tiny-gpt2", tmp_path / name)
        for name in ("whole", "again", "ünï", "[b]x", "weightless", "short", "misfit")
    }
    (names["weightless"] / "model.safetensors").unlink()
    weights = names["short"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    words = {f"word{k}": k for k in range(5000)}
    stranger = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="word0")))
    stranger.save_pretrained(names["misfit"])
    return tuple(str(folder) for folder in names.values())


def test_broken_models_are_recorded_as_failures_and_the_others_run(out, with_broken_models):
    spec = replace(
        quickstart_spec(), models=with_broken_models, datasets=("synthetic",), protocols=("strict",), variants=()
    )
    found = pipeline.run(spec, out)
    failures = tables.read(out, "failures", found.run).set_index("model")
    messages = {name.rsplit("/", 1)[-1]: message for name, message in failures.message.items()}
    assert set(messages) == {"weightless", "short", "misfit"}
    assert "no weights" in messages["weightless"]
    assert "damaged" in messages["short"]
    assert "does not fit the model" in messages["misfit"]
    scores = tables.read(out, "model_scores", found.run).set_index("model")
    assert len({scores.loc[name, "r"] for name in ("whole", "again", "ünï", "[b]x")}) == 1
    assert tables.read(out, "runs", found.run).status.item() == "failed"


def test_folders_with_the_same_name_get_different_model_names(out, outcome, tmp_path):
    built = quickstart.folder_of(out)
    same, other = tmp_path / "a" / "tiny-gpt2", tmp_path / "b" / "tiny-gpt2"
    shutil.copytree(built / "tiny-gpt2", same)
    shutil.copytree(built / "tiny-llama", other)
    spec = replace(quickstart_spec(), models=(str(built / "tiny-gpt2"), str(same), str(other)))
    workload = make_workload(spec, out, None)
    assert not workload.failures
    found = [source for source in workload.sources if source.kind == "model"]
    assert [source.name for source in found] == [f"{built.name}-tiny-gpt2", "a-tiny-gpt2", "b-tiny-gpt2"]
    assert found[0].revision == found[1].revision != found[2].revision


def test_a_run_killed_while_writing_tables_does_not_count_as_complete(out, outcome, tmp_path, monkeypatch):
    copy = str(shutil.copytree(out, tmp_path / "copy"))
    shutil.rmtree(tables.folder(copy, "runs"))  # so that the tables are assembled again

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(assemble, "_write_scores", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(quickstart_spec(), copy)
    monkeypatch.undo()
    assert not tables.holds(copy, outcome.run)
    again = pipeline.run(quickstart_spec(), copy)
    assert (again.n_computed, tables.holds(copy, again.run)) == (0, True)
    assert len(tables.read(copy, "neuroid_scores", again.run)) == len(tables.read(out, "neuroid_scores", again.run))


@pytest.mark.slow
def test_ray_data_assembles_the_same_tables_although_a_node_is_lost(out, outcome, tmp_path, monkeypatch):
    copy, install, calls = shutil.copytree(out, tmp_path / "copy"), assemble._install, []
    shutil.rmtree(copy / "tables")

    def fail_once(store, staging, final):
        if "/run=" in staging:  # written by Ray Data, and complete by now
            calls.append(final.split("/")[-2])
            if calls.count(calls[-1]) == 1:
                raise RuntimeError("a node was lost")
        install(store, staging, final)

    monkeypatch.setattr(assemble, "_install", fail_once)
    monkeypatch.setattr(assemble, "MOST_ROWS", 0)
    again = pipeline.run(quickstart_spec(), str(copy))
    assert (again.run, again.n_computed) == (outcome.run, 0)
    assert calls.count("model_scores") == 2
    assert_same_tables(copy, out, outcome.run)
    assert not list(copy.glob("tables/.aside-*"))


def test_a_missing_recording_is_reported_with_its_source_and_the_others_run(out, outcome, tmp_path):
    spec = replace(
        quickstart_spec(), models=("tiny-gpt2",), datasets=("tuckute2024", "synthetic"), protocols=("strict",)
    )
    found = pipeline.run(spec, out, RunOptions(str(tmp_path)))
    (failure,) = found.failures
    assert failure.dataset == "tuckute2024"
    assert str(tmp_path) in failure.message
    assert "harness fetch tuckute2024" in failure.message
    assert set(tables.read(out, "model_scores", found.run).dataset) == {"synthetic"}


@pytest.mark.slow
def test_brainscore2026_runs_for_brain_recordings_and_appears_in_the_report(out, outcome):
    spec = replace(
        quickstart_spec(), models=("tiny-gpt2",), controls=("length",), variants=(),
        protocols=("strict", "paper", "brainscore2026"),
    )  # fmt: skip
    found = pipeline.run(spec, out)
    assert not found.failures
    brain, reading = (tables.read(out, name, found.run) for name in ("model_scores", "reading_scores"))
    metrics = {"strict": "pearson_r", "paper": "pearson_r", "brainscore2026": "brainscore_r"}
    assert dict(zip(brain.protocol, brain.metric, strict=True)) == metrics
    assert set(reading.protocol) == {"strict", "paper"}
    assert "Under BRAINSCORE2026, tiny-gpt2" in page.markdown(out, found.run)
    assert "BRAINSCORE2026" in Path(page.write(out, found.run)).read_text(encoding="utf-8")


def test_an_unknown_data_set_raises_with_the_nearest_name(out):
    with pytest.raises(ValueError, match="tuckute2024"):
        pipeline.run(replace(quickstart_spec(), datasets=("tuckute2042",)), out)


@pytest.mark.parametrize(("models", "datasets", "message"), [
    (("tiny-gpt2", "tiny-gtp2"), ("synthetic",), r"'tiny-gtp2' is neither .*nearest names.* Nothing was computed"),
    (("{tmp_path}",), ("synthetic",), r"none of the requested models could be loaded, .*config\.json"),
    (("tiny-gpt2",), ("tuckute2024",), "none of the requested recordings could be loaded, .*: tuckute"),
])  # fmt: skip
def test_nothing_starts_with_a_mistyped_model_no_model_or_no_data(out, outcome, tmp_path, models, datasets, message):
    spec = replace(quickstart_spec(), models=tuple(m.format(tmp_path=tmp_path) for m in models), datasets=datasets)
    with pytest.raises(ValueError, match=message):
        pipeline.run(spec, out, RunOptions(str(tmp_path)))


@pytest.mark.slow
def test_keep_going_runs_the_other_models_despite_a_mistyped_name(out, outcome):
    spec = replace(quickstart_spec(), models=("tiny-gpt2", "tiny-gtp2"), datasets=("synthetic",), protocols=("strict",))
    found = pipeline.run(spec, out, RunOptions(keep_going=True))
    assert [(failure.model, failure.exception) for failure in found.failures] == [("tiny-gtp2", "UnknownModelError")]
    assert "tiny-gpt2" in set(tables.read(out, "model_scores", found.run).model)
