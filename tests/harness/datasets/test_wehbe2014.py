"""Wehbe2014: small files of the published format are read, damaged ones are rejected."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.datasets import wehbe2014
from harness.datasets.wehbe2014 import PAPER, STRICT, SUBJECTS
from harness.extraction import backends
from harness.features import controls
from harness.models import tiny
from harness.records import Ceiling, Features, Layer
from harness.runs.workload import make_workload
from harness.scoring import aggregate, brain_scores, similarity
from harness.scoring.folds import make
from harness.spec import EvaluationSpec
from harness.storage.store import Store
from tests.harness.datasets.wehbe_files import masks, write

LAYER = Layer("human", 0)
CONTROLS = ("length", "word-rate", "position", "oasm", "random")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("wehbe"))


@pytest.fixture(scope="module")
def loaded(root):
    return datasets.load("wehbe2014", root)


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the files, for damaging."""
    return shutil.copytree(root, tmp_path / "copy")


def test_words_are_in_one_passage_with_their_onsets(loaded):
    stimuli = loaded.stimuli
    assert len(stimuli) == 5_176
    assert (stimuli.ids[0], stimuli.ids[-1]) == ("word.0", "word.5175")
    assert (stimuli.onsets_s[0], stimuli.onsets_s[-1]) == (20.0, 2693.0)
    assert set(stimuli.passages) == {"chapter 9"}
    assert {"@", "+", "--"} < set(stimuli.texts)


def test_rows_are_the_kept_scans_with_run_and_time(loaded):
    responses = loaded.responses
    assert len(responses.row_ids) == 1_211
    assert responses.row_ids[0] == "scan.20"
    assert responses.times_s[0] == 40.0
    ends = [row for row in range(1_210) if responses.row_groups[row] != responses.row_groups[row + 1]]
    assert [(responses.row_ids[row], responses.row_ids[row + 1]) for row in ends] == [
        ("scan.310", "scan.346"), ("scan.648", "scan.684"), ("scan.993", "scan.1029"),
    ]  # fmt: skip
    assert responses.row_blocks == responses.row_groups


def test_neuroids_are_the_voxels_of_the_mask_all_with_the_first_region_that_contains_them(loaded, root):
    responses = loaded.responses
    assert list(dict.fromkeys(responses.subjects)) == list(SUBJECTS)
    assert responses.neuroid_ids[:5] == ("F.1", "F.2", "F.3", "F.4", "F.5")
    assert responses.rois[:5] == ("PostTemp", "PostTemp", "AntTemp", "IFG", "other")
    assert responses.values.shape == (1_211, 4 * 5 + 4 * 6)
    published = np.load(root / "wehbe2014/fMRI/data_subject_N.npy")
    np.testing.assert_array_equal(responses.values[:, -6:], published[:, 1:].astype(np.float32))


def test_the_target_all_has_all_voxels(loaded):
    assert len(aggregate.targets(loaded.responses)["all"].neuroids) == 44


def test_the_version_is_reproducible_and_depends_on_the_values(loaded, root, copy):
    assert datasets.load("wehbe2014", root).version == loaded.version
    path = copy / "wehbe2014/fMRI/data_subject_F.npy"
    np.save(path, np.load(path) + 1)
    assert datasets.load("wehbe2014", copy).version != loaded.version


def test_the_ceiling_is_the_published_one_and_named_as_such(loaded):
    assert loaded.published_ceiling == 0.104
    assert "published" in loaded.ceiling_source


def test_the_error_for_missing_subjects_names_their_files(copy):
    for subject in "HN":
        (copy / f"wehbe2014/fMRI/data_subject_{subject}.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_subject_H\.npy.*missing: .*data_subject_N\.npy") as error:
        datasets.load("wehbe2014", copy)
    assert "github.com/mtoneva/brain_language_nlp" in str(error.value)
    assert "data_subject_F" not in str(error.value)


def _changed(path, change):
    np.save(path, change(np.load(path)))


def _with(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fMRI/data_subject_H.npy", lambda y: y[:-1], r"data_subject_H\.npy has shape \(1210, 6\).*1211 x any number"),
        ("fMRI/data_subject_H.npy", lambda y: y[:, :-1], "has 5 voxels; .* masks of 6"),
        ("fMRI/data_subject_H.npy", lambda y: y.astype(str), "data_subject_H.npy has shape .* of <U"),
        ("fMRI/data_subject_H.npy", _with((3, 2), np.inf), r"neuroid 'H\.2' has infinite"),
        ("fMRI/time_fmri.npy", lambda t: t[:-1], "time_fmri.npy has shape .1350,.*wanted 1351"),
        ("fMRI/time_fmri.npy", _with(7, np.nan), "number 7 of the times of scans is nan"),
        ("fMRI/time_words_fmri.npy", _with(8, 0.0), "number 8 of the onsets of words is 0.0"),
        ("fMRI/runs_fmri.npy", lambda runs: runs - 1, r"runs \[0, 1, 2, 3\], wanted 1 to 4"),
        (
            "fMRI/runs_fmri.npy",
            lambda runs: np.repeat([1, 2, 3, 4], (1341, 3, 3, 4)),
            "run is too short",
        ),
        ("stimuli_words.npy", lambda words: words[1:], "stimuli_words.npy has shape .5175,.*wanted 5176 words"),
        ("stimuli_words.npy", _with(5, " "), "word 5 is empty"),
    ],
)
def test_the_error_for_a_file_of_another_format_names_what_was_wanted(copy, name, change, message):
    _changed(copy / "wehbe2014" / name, change)
    with pytest.raises(ValueError, match=message):
        datasets.load("wehbe2014", copy)


@pytest.mark.parametrize("name", ["fMRI/data_subject_H.npy", "stimuli_words.npy", "HP_subj_roi_inds.npy"])
@pytest.mark.parametrize("n_bytes", [0, 60, 400])
def test_the_error_for_a_truncated_file_names_it(copy, name, n_bytes):
    path = copy / "wehbe2014" / name
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=path.name):
        datasets.load("wehbe2014", copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rois: rois.pop("K"), "subject K has no mask all, PostTemp"),
        (lambda rois: rois["K"].pop("IFG"), "subject K has no mask IFG"),
        (lambda rois: rois["K"].update(IFG=np.zeros(3, bool)), r"masks of subject K have shapes .*'IFG': \(3,\)"),
        (lambda rois: rois["K"].update(IFG=np.full(7, 0.5)), "subject K: mask IFG is not boolean"),
        (lambda rois: rois.update(K=masks(1)), "subject K: mask all is empty"),
    ],
)
def test_the_error_for_an_invalid_mask_names_it(copy, change, message):
    path = copy / "wehbe2014/HP_subj_roi_inds.npy"
    rois = np.load(path, allow_pickle=True).item()
    change(rois)
    np.save(path, rois)
    with pytest.raises(ValueError, match=message):
        datasets.load("wehbe2014", copy)


def test_masks_may_be_zeros_and_ones(loaded, copy):
    path = copy / "wehbe2014/HP_subj_roi_inds.npy"
    rois = np.load(path, allow_pickle=True).item()
    np.save(path, {s: {name: mask.astype(float) for name, mask in by_region.items()} for s, by_region in rois.items()})
    assert datasets.load("wehbe2014", copy).version == loaded.version


def test_the_folds_of_paper_have_302_302_302_and_305_rows_with_five_removed_between(loaded):
    first, second, third, last = make(PAPER.folds, loaded.responses.row_groups)
    np.testing.assert_array_equal(first.test, np.arange(302))
    np.testing.assert_array_equal(first.train, np.arange(307, 1211))
    np.testing.assert_array_equal(second.test, np.arange(307, 599))
    np.testing.assert_array_equal(second.train, np.r_[0:302, 604:1211])
    np.testing.assert_array_equal(third.test, np.arange(609, 901))
    np.testing.assert_array_equal(third.train, np.r_[0:604, 906:1211])
    np.testing.assert_array_equal(last.test, np.arange(906, 1211))
    np.testing.assert_array_equal(last.train, np.arange(901))


def test_the_folds_of_strict_are_the_runs(loaded):
    groups = np.array(loaded.responses.row_groups)
    folds = make(STRICT.folds, loaded.responses.row_groups)
    assert sorted(set(groups[fold.test]).pop() for fold in folds) == ["run.1", "run.2", "run.3", "run.4"]
    assert all(len(set(groups[fold.test])) == 1 and len(fold.train) + len(fold.test) == 1_211 for fold in folds)


@pytest.mark.parametrize("protocol", [PAPER, STRICT], ids=["paper", "strict"])
def test_subjects_predict_each_other_and_noise_predicts_none(loaded, protocol):
    responses, rng = loaded.responses, np.random.default_rng(0)
    subjects = np.array(responses.subjects)
    voxels = np.flatnonzero(subjects == "F")
    others = np.mean([responses.values[:, subjects == subject][:, :5] for subject in SUBJECTS[1:]], axis=0)
    for X, low, high in ((others, 0.95, 1.0), (rng.standard_normal((1_211, 64)), -0.05, 0.05)):
        features = Features({LAYER: X.astype(np.float32)}, responses.row_ids)
        r = brain_scores.score_layers(features, responses, protocol)[LAYER].r[:, voxels]
        assert low < np.median(r) < high


@pytest.fixture(scope="module")
def tables(root, loaded, tmp_path_factory):
    """A tiny model and all controls under both protocols: (source, protocol) -> row of model_scores for "all"."""
    out = str(tmp_path_factory.mktemp("out"))
    folder = tiny.build("gpt2", Path(out) / "tiny", sorted(set(loaded.stimuli.texts)), seed=3)
    spec = EvaluationSpec("wehbe", (str(folder),), ("wehbe2014",), controls=CONTROLS, variants=())
    workload, store = make_workload(spec, out, str(root)), Store(out)
    assert not workload.failures
    feature_units = {unit.features.key: unit.features for unit in workload.scores if unit.features}
    assert len(feature_units) == 1  # both protocols have the same contexts, so one pass suffices
    for unit in feature_units.values():
        unit.run(backends.load("transformers", unit.source.checkpoint, "cpu"), store)
    rows_by_source = {}
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(controls, "OASM_WIDTHS", (2.0,))  # one of five, to save time
    monkeypatch.setattr(similarity, "DRAWS", replace(similarity.DRAWS, n=2))  # of ten
    ceiling = Ceiling(("",), loaded.known_ceilings()[None], (loaded.ceiling_source,) * 44)
    for unit in workload.scores:
        unit.run(loaded, ceiling, store)
        with store.open("scores", unit.key) as stored:
            rows = pd.read_parquet(stored / "model_scores.parquet")
        rows_by_source[unit.source.name, unit.protocol.name] = rows[rows.target == "all"].iloc[0]
    monkeypatch.undo()
    return rows_by_source


@pytest.mark.slow
def test_a_model_and_all_controls_are_scored_under_both_protocols(tables):
    assert set(tables) == {(name, protocol) for name in ("tiny", *CONTROLS) for protocol in ("paper", "strict")}
    n_features = {name: (tables[name, "paper"].n_features, tables[name, "strict"].n_features) for name, _ in tables}
    assert n_features["tiny"] == (4 * 10, 4 * tiny.WIDTH)
    assert n_features["length"] == (4, 4)
    assert n_features["random"] == (4 * 10, 4 * 64)
    assert n_features["oasm"] == (1_211, 1_211)
    for (name, _), row in tables.items():
        assert (row.ceiling, row.n_folds, row.n_neuroids) == (0.104, 4, 44)
        assert np.isnan(row.r) if row.n_nan == 44 else abs(row.r) < 0.1, name


@pytest.mark.slow
def test_the_word_rate_is_not_measurable_if_it_is_constant(tables):
    assert tables["word-rate", "paper"].n_nan == tables["word-rate", "strict"].n_nan == 44


def test_there_is_no_brain_score_protocol():
    assert list(datasets.protocols("wehbe2014")) == ["paper", "strict", "equal"]


def test_the_published_shapes_add_up():
    assert wehbe2014.N_KEPT == 1_211
