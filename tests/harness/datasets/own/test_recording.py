"""local:FOLDER: correct tables, and every kind of error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.cli import commands
from harness.features import controls
from harness.models import tiny
from harness.protocol import protocol_of
from harness.report import page
from harness.runs import pipeline
from harness.scoring import ceilings
from harness.spec import EvaluationSpec
from harness.storage import tables

pytestmark = pytest.mark.ray

N_SENTENCES, NEUROIDS = 60, ("v1", "v2", "v3")


def sentences():
    """60 sentences in 12 passages of 6 topics, two subjects."""
    rng = np.random.default_rng(0)
    numbers = range(N_SENTENCES)
    stimuli = pd.DataFrame({
        "stimulus_id": [f"s{k}" for k in numbers],
        "text": [f"The cat {k} sat {'very ' * (k % 4)}still." for k in numbers],
        "passage": [f"p{k // 5}" for k in numbers], "group": [f"topic {k // 10}" for k in numbers],
    })  # fmt: skip
    values = pd.DataFrame(rng.standard_normal((N_SENTENCES, 3)).astype(np.float32), columns=list(NEUROIDS))
    values.iloc[3, 1] = np.nan
    neuroids = pd.DataFrame({"neuroid_id": NEUROIDS, "subject": ["a", "a", "b"], "roi": ["IFG", "MFG", "IFG"]})
    return {
        "stimuli": stimuli,
        "responses": values.assign(row_id=stimuli.stimulus_id)[["row_id", *NEUROIDS]],
        "neuroids": neuroids,
    }


def scans(stories=("one",), n_scans=60, tr=2.0):
    """Two words per second and one scan every 2 s, each story on its own clock."""
    rng = np.random.default_rng(0)
    words = [(story, k) for story in stories for k in range(int(n_scans * tr * 2))]
    stimuli = pd.DataFrame({
        "stimulus_id": [f"{story}.w{k}" for story, k in words],
        "text": [("tea", "milk", "rain")[(k + stories.index(story)) % 3] for story, k in words],
        "passage": [story for story, _ in words], "onset_s": [k / 2 for _, k in words],
        "end_s": [k / 2 + 0.4 for _, k in words],
    })  # fmt: skip
    acquired = [(story, k) for story in stories for k in range(n_scans)]
    scan_table = pd.DataFrame({
        "scan_id": [f"{story}.{k}" for story, k in acquired], "time_s": [k * tr for _, k in acquired],
        "block": [story for story, _ in acquired],
    })  # fmt: skip
    values = pd.DataFrame(rng.standard_normal((len(scan_table), 3)), columns=list(NEUROIDS))
    responses = values.assign(row_id=scan_table.scan_id)[["row_id", *NEUROIDS]]
    return {"stimuli": stimuli, "scans": scan_table, "responses": responses}


def reading(n_readers=0, n_stories=3):
    """Stories of 40 words in sentences of five."""
    rng = np.random.default_rng(0)
    places = [(story, k) for story in range(n_stories) for k in range(40)]
    stimuli = pd.DataFrame({
        "stimulus_id": [f"{story}.{k}" for story, k in places],
        "text": ["Stop." if k % 5 == 4 else ("Rain", "fell", "on", f"day{story}")[k % 5] for story, k in places],
        "passage": [f"story{story}" for story, _ in places],
    })  # fmt: skip
    if not n_readers:
        return {"stimuli": stimuli.assign(reading_ms=rng.normal(300, 30, len(stimuli)))}
    shared = rng.normal(300, 30, len(stimuli))
    times = pd.DataFrame({f"r{k}": shared + rng.normal(0, 30, len(stimuli)) for k in range(n_readers)})
    times.iloc[5, 0] = np.nan
    return {"stimuli": stimuli, "reading_times": times.assign(stimulus_id=stimuli.stimulus_id)}


def put(folder: Path, content, settings=None, suffix="csv", **options):
    """Write tables, and dataset.json if settings are given; returns the name of the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in content.items():
        if suffix == "csv":
            frame.to_csv(folder / f"{name}.csv", **{"index": False, **options})
        else:
            frame.to_parquet(folder / f"{name}.parquet", **options)
    if settings is not None:
        (folder / "dataset.json").write_text(json.dumps(settings))
    return f"local:{folder}"


def strict(name):
    return datasets.protocols(name)["strict"]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_sentences_with_their_responses(tmp_path):
    content = sentences()
    settings = {
        "name": "lab-1",
        "licence": "CC0",
        "citation": "We (2026)",
        "unit": "z",
        "ceiling": {"value": 0.3, "source": "ours"},
    }
    name = put(tmp_path / "mine", content, settings)
    loaded = datasets.load(name, ".")
    assert (loaded.name, loaded.published_ceiling, loaded.ceiling_source) == ("lab-1", 0.3, "ours")
    assert loaded.stimuli.groups[10] == "topic 1"
    responses = loaded.responses
    np.testing.assert_array_equal(responses.values, content["responses"][list(NEUROIDS)].to_numpy(np.float32))
    assert (responses.subjects, responses.rois, responses.unit) == (("a", "a", "b"), ("IFG", "MFG", "IFG"), "z")
    assert responses.row_ids == loaded.stimuli.ids
    assert responses.row_blocks == loaded.stimuli.passages
    entry = datasets.find(name)
    assert (entry.licence, entry.citation, entry.kind) == ("CC0", "We (2026)", "brain")
    assert "60 sentences, 3 neuroids of 2 subjects" in entry.extent


@pytest.mark.parametrize(
    "make", [sentences, scans, reading, lambda: reading(4)], ids=["sentences", "scans", "words", "readers"]
)
def test_order_format_and_a_written_index_do_not_change_the_version(tmp_path, make):
    """CSV and Parquet, rows shuffled if they are joined by id, with pandas' index as a column."""
    content = make()
    shuffled = {
        name: frame if name == "stimuli" else frame.sample(frac=1, random_state=0) for name, frame in content.items()
    }
    names = [
        put(tmp_path / "a" / "mine", content), put(tmp_path / "b" / "mine", shuffled, index=True),
        put(tmp_path / "c" / "mine", shuffled, suffix="parquet"),
        put(tmp_path / "d" / "mine", {k: v.set_index(v.columns[0]) for k, v in content.items()}, index=True),
    ]  # fmt: skip
    assert len({datasets.load(name, ".").version for name in names}) == 1
    assert {datasets.find(name).name for name in names} == {"local-mine"}


def test_words_that_look_like_missing_values_stay_words(tmp_path):
    content = reading()
    content["stimuli"].loc[:3, "text"] = ["NA", "null", '"quoted', "nan"]
    assert datasets.load(put(tmp_path / "x", content), ".").stimuli.texts[:4] == ("NA", "null", '"quoted', "nan")


def test_without_neuroids_there_is_one_subject(tmp_path):
    content = sentences()
    del content["neuroids"]
    assert datasets.load(put(tmp_path / "x", content), ".").responses.subjects == ("subject",) * 3


def test_sentences_without_a_response_are_context_only(tmp_path):
    content = sentences()
    content["responses"] = content["responses"].drop(index=7)
    loaded = datasets.load(put(tmp_path / "x", content), ".")
    assert "s7" not in loaded.responses.row_ids
    assert len(loaded.stimuli) == N_SENTENCES


def test_scans_are_sorted_by_story_and_time(tmp_path):
    loaded = datasets.load(put(tmp_path / "x", scans(("one", "two"))), ".")
    responses = loaded.responses
    assert responses.row_ids[:2] == ("one.0", "one.1")
    assert responses.row_blocks == responses.row_groups == ("one",) * 60 + ("two",) * 60
    np.testing.assert_array_equal(responses.times_s[[0, 59, 60]], [0.0, 118.0, 0.0])
    one_story = datasets.load(put(tmp_path / "y", scans()), ".").responses
    assert (one_story.row_groups[0], one_story.row_groups[-1]) == ("minute.1", "minute.2")


def test_reading_times_by_reader_give_a_mean_and_a_ceiling(tmp_path):
    content = reading(8)
    loaded = datasets.load(put(tmp_path / "x", content), ".").reading
    times = content["reading_times"].drop(columns="stimulus_id")
    np.testing.assert_allclose(loaded.mean_ms, times.mean(axis=1), rtol=1e-6)
    assert loaded.subjects == tuple(f"r{k}" for k in range(8))
    assert loaded.scored.sum() == 120 * 4 / 5
    protocols = datasets.protocols(f"local:{tmp_path / 'x'}")
    (ceiling,), (kind,) = ceilings.of_reading(loaded, protocols["paper"])[:4:3]
    assert 0.8 < ceiling < 0.95
    assert kind == "reliability by split half of 8 readers"
    (root,), (kind,) = ceilings.of_reading(loaded, protocols["strict"])[:4:3]
    assert root == pytest.approx(ceiling**0.5)
    assert kind == "square root of the reliability by split half of 8 readers"


def test_sentences_and_scored_words_can_be_given(tmp_path):
    content = reading()
    content["stimuli"]["sentence"] = [f"x{k // 20}" for k in range(120)]
    content["stimuli"]["scored"] = [k % 2 == 0 for k in range(120)]
    loaded = datasets.load(put(tmp_path / "x", content), ".")
    assert len(set(loaded.stimuli.sentences)) == 6
    assert loaded.reading.scored.sum() == 60


# --- protocols --------------------------------------------------------------------------------------------------------


def test_strict_holds_out_related_rows_together(tmp_path):
    related = strict(put(tmp_path / "related", sentences()))
    assert (related.folds.kind, related.folds.n, related.context) == ("grouped", 6, "passage")
    content = sentences()
    content["stimuli"] = content["stimuli"].drop(columns=["passage", "group"])
    single = strict(put(tmp_path / "single", content))
    assert (single.folds.kind, single.folds.n, single.context) == ("kfold", 6, "none")
    story = strict(put(tmp_path / "story", scans()))
    assert (story.folds.kind, story.folds.n, story.folds.gap) == ("contiguous", 5, 5)
    assert story.sampling.delays == (1, 2, 3, 4)
    stories = strict(put(tmp_path / "stories", scans(("a", "b", "c"), tr=1.0)))
    assert (stories.folds.kind, stories.folds.n, stories.sampling.delays) == ("grouped", 3, tuple(range(2, 9)))
    assert strict(put(tmp_path / "read", reading())).folds.kind == "grouped"
    assert strict(put(tmp_path / "read1", reading(n_stories=1))).folds.kind == "contiguous"


def test_protocols_have_distinct_hashes_and_survive_json(tmp_path):
    for name in (put(tmp_path / "a", sentences()), put(tmp_path / "b", scans())):
        protocols = datasets.protocols(name)
        assert list(protocols) == ["paper", "strict", "equal", "brainscore2026"]
        assert len({protocol.hash for protocol in protocols.values()}) == 4
        for protocol in protocols.values():
            stored = json.loads(json.dumps(protocol, default=vars))
            assert protocol_of(stored) == protocol
            assert protocol.notes


def test_one_group_cannot_be_held_out_so_there_is_no_brainscore2026(tmp_path):
    one_topic = sentences()
    one_topic["stimuli"]["group"] = "all"
    for name in (put(tmp_path / "a", one_topic), put(tmp_path / "b", scans(n_scans=25))):
        assert list(datasets.protocols(name)) == ["paper", "strict", "equal"]


def test_context_and_folds_can_be_chosen(tmp_path):
    settings = {"context": "corpus", "strict": {"folds": {"kind": "contiguous", "n": 3, "gap": 2}}}
    protocol = strict(put(tmp_path / "x", sentences(), settings))
    folds = protocol.folds
    assert protocol.context == "corpus"
    assert (folds.kind, folds.n, folds.gap, folds.min_test_rows) == ("contiguous", 3, 2, 10)


# --- errors ---------------------------------------------------------------------------------------------------------


def changed(table, **columns):
    """Replace columns by functions of the frame."""

    def make(content):
        content[table] = content[table].assign(**{name: call(content[table]) for name, call in columns.items()})

    return make


def cell(table, row, column, value):
    def make(content):
        content[table] = content[table].astype({column: object})
        content[table].loc[row, column] = value

    return make


def renamed(table, **names):
    def make(content):
        content[table] = content[table].rename(columns=names)

    return make


def with_row(table, *values):
    def make(content):
        content[table].loc[len(content[table])] = list(values)

    return make


@pytest.mark.parametrize(("damage", "message"), [
    (renamed("stimuli", text="txt"), r"stimuli.csv has no column 'text'; the nearest is 'txt'"),
    (renamed("stimuli", passage="passages"), r"column 'passages' is not a known column; did you mean 'passage'\?"),
    (cell("stimuli", 4, "text", " "), r"stimuli.csv: column 'text' is empty in stimulus_id 's4'"),
    (cell("stimuli", 4, "stimulus_id", "s3"), r"stimuli.csv: stimulus_id 's3' appears more than once"),
    (cell("stimuli", 4, "stimulus_id", ""), r"stimuli.csv: column 'stimulus_id' is empty in row"),
    (cell("stimuli", 4, "passage", "p9"), "passage 'p.' is not contiguous"),
    (renamed("responses", row_id="id"), r"responses.csv has no column 'row_id'"),
    (renamed("responses", v2="v22"), r"column 'v22' is not a neuroid_id of neuroids.csv; the nearest is 'v2'"),
    (renamed("responses", v2="v1"), r"responses.csv, line 1: column 'v1' appears more than once"),
    (cell("responses", 4, "v2", "high"), r"responses.csv: column 'v2' is 'high' in row_id 's4'"),
    (cell("responses", 4, "v2", "inf"), r"responses.csv: column 'v2' is 'inf' in row_id 's4'"),
    (cell("responses", 4, "row_id", "s3"), r"responses.csv: row_id 's3' appears more than once"),
    (with_row("responses", "s777", 1, 2, 3), r"row_id 's777' is not in stimuli.csv; the nearest is 's7'"),
    (changed("responses", v2=lambda _: ""), r"responses.csv: column 'v2' has no values"),
    (with_row("neuroids", "v4", "b", "IFG"), r"neuroids.csv: neuroid_id 'v4' is not a column of responses.csv"),
    (with_row("neuroids", "v3", "b", "IFG"), r"neuroids.csv: neuroid_id 'v3' appears more than once"),
    (changed("stimuli", group=lambda f: ["a"] * 55 + ["b"] * 5), "too few rows in the groups: 2 groups of 5 to 55"),
    (lambda content: content.pop("responses"), r"exactly one of a table responses, .* here: none of them"),
    (lambda content: content.update(neuroid=content.pop("neuroids")), r"neuroid.csv is not a known file.*'neuroids'\?"),
    (changed("stimuli", reading_ms=lambda _: 300), r"here: responses.csv and reading_ms"),
    (lambda content: content.pop("stimuli"), r"stimuli.csv or stimuli.parquet does not exist"),
])  # fmt: skip
def test_an_error_in_the_tables_names_file_column_and_id(tmp_path, damage, message):
    content = sentences()
    damage(content)
    name = put(tmp_path / "mine", content)
    with pytest.raises(ValueError, match=message) as error:
        datasets.load(name, ".")
    assert str(tmp_path / "mine") in str(error.value)


@pytest.mark.parametrize(("damage", "message"), [
    (cell("scans", 4, "block", "onne"), r"scans.csv: block 'onne' of scan 'one.4' is not a passage.*nearest is 'one'"),
    (cell("scans", 4, "time_s", 6.0), r"scans 'one.3' and 'one.4' have the same time_s, 6|scans 'one.4' and 'one.3'"),
    (cell("scans", 4, "time_s", ""), r"column 'time_s' is '' in scan_id 'one.4' \(line 6\); write a finite number"),
    (cell("stimuli", 4, "end_s", ""), r"stimuli.csv: column 'end_s' is ''"),
    (renamed("stimuli", onset_s="begin"), r"stimuli.csv has no column 'onset_s'"),
    (lambda content: content["responses"].drop(index=4, inplace=True), r"no row for 'one.4' of scans.csv"),
    (renamed("scans", block="blok"), r"column 'blok' is not a known column; did you mean 'block'\?"),
])  # fmt: skip
def test_an_error_in_scans_names_file_column_and_id(tmp_path, damage, message):
    content = scans()
    damage(content)
    with pytest.raises(ValueError, match=message):
        datasets.load(put(tmp_path / "mine", content), ".")


@pytest.mark.parametrize(("settings", "message"), [
    ({"licens": "CC0"}, r"dataset.json: key 'licens' is unknown; the nearest is 'licence'"),
    ({"strict": {"fold": {}}}, r"dataset.json, strict: key 'fold' is unknown; the nearest is 'folds'"),
    ({"strict": {"folds": {"kind": "group"}}}, r"kind is 'group'; use one of grouped"),
    ({"strict": {"folds": {"n": "five"}}}, r"n is 'five'; wanted a value of type int"),
    ({"context": "story"}, r"context is 'story'; use one of none, passage, corpus"),
    ({"in_order": "no"}, r"in_order is 'no'; wanted a value of type bool"),
    ({"joiner": True}, r"joiner is True; wanted a value of type str"),
    ({"ceiling": {"value": 0.3}}, r"dataset.json, ceiling: source is missing"),
    ({"ceiling": 0.3}, r"dataset.json: ceiling is 0.3; wanted a value of type dict"),
    ({"name": "../x"}, r"dataset.json: name '../x'"),
    ([1], r"dataset.json: wanted an object .* not \[1\]"),
])  # fmt: skip
def test_an_error_in_dataset_json_names_the_key(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        datasets.find(put(tmp_path / "mine", sentences(), settings))


def test_rows_are_in_order_of_presentation_unless_stated_otherwise(tmp_path):
    for settings, in_order in (({}, True), ({"in_order": False}, False)):
        recording = datasets.load(put(tmp_path / "mine", sentences(), settings), ".")
        assert recording.rows_in_order == controls.applies("drift", recording) == in_order


def test_the_name_of_another_data_set_and_a_missing_folder_are_rejected(tmp_path):
    name = put(tmp_path / "mine", sentences(), {"name": "brennan2016"})
    with pytest.raises(ValueError, match="'brennan2016' is the name of another data set"):
        datasets.find(name)
    with pytest.raises(ValueError, match="is not a folder; the nearest is 'mine'"):
        datasets.expand(f"local:{tmp_path / 'mein'}")
    (tmp_path / "mine" / "stimuli.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"both stimuli.csv and stimuli.parquet exist; keep one"):
        datasets.find(name)
    (tmp_path / "mine" / "stimuli.csv").unlink()
    with pytest.raises(ValueError, match=r"stimuli.parquet cannot be read"):
        datasets.find(name)


# --- end to end ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_own_recordings_are_scored_and_reported(tmp_path, capsys):
    model = tiny.build("gpt2", tmp_path / "tiny", ["the cat sat very still", "tea milk rain fell on Monday"], 0)
    names = tuple(
        put(tmp_path / folder, make())
        for folder, make in (("my sentences", sentences), ("scans", scans), ("words", lambda: reading(6)))
    )
    broken = put(tmp_path / "broken", {"stimuli": sentences()["stimuli"]})
    spec = EvaluationSpec(
        "real", (str(model),), (*names, broken), ("strict", "paper", "brainscore2026"), ("length",), variants=()
    )
    out = str(tmp_path / "out")
    outcome = pipeline.run(spec, out)
    (failure,) = outcome.failures
    assert (failure.dataset, failure.stage) == (broken, "datasets")
    brain, reading_scores = (tables.read(out, name, outcome.run) for name in ("model_scores", "reading_scores"))
    assert set(brain.dataset) == {"local-my-sentences", "local-scans"}
    assert set(brain.protocol) == {"strict", "paper", "brainscore2026"}
    assert set(reading_scores.dataset) == {"local-words"}
    assert reading_scores.ceiling_kind.str.endswith("reliability by split half of 6 readers").all()
    assert (reading_scores.ratio == reading_scores.abs_r / reading_scores.ceiling).all()
    for name in names:
        shutil.rmtree(name.removeprefix("local:"))  # the report needs only the tables
    text = page.markdown(out, outcome.run)
    assert "local-my-sentences" in text
    assert "5 contiguous folds, 5 rows dropped at their sides" in text


def test_the_command_shows_a_folder_and_its_protocols(tmp_path, capsys):
    name = put(tmp_path / "mine", sentences(), {"licence": "CC0"})
    assert commands.main(["datasets", name]) == 0
    output = capsys.readouterr().out
    assert "60 sentences, 3 neuroids of 2 subjects" in output
    assert "6 folds of whole groups" in output
    assert commands.main(["datasets", name, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["protocols"]) == {"paper", "strict", "equal", "brainscore2026"}
    assert commands.main(["datasets", f"local:{tmp_path / 'nothing'}"]) == 2
    assert "is not a folder" in capsys.readouterr().err
