"""Wehbe2014: the published arrays, on small files of that form, and what is wrong with damaged ones."""

from __future__ import annotations

import shutil
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
from harness.scoring import aggregate, brain_scores
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
    """A copy of the files, to be damaged."""
    return shutil.copytree(root, tmp_path / "copy")


def test_words_stand_in_one_passage_with_their_onsets(loaded):
    stimuli = loaded.stimuli
    assert len(stimuli) == 5_176
    assert (stimuli.ids[0], stimuli.ids[-1]) == ("word.0", "word.5175")
    assert (stimuli.onsets_s[0], stimuli.onsets_s[-1]) == (20.0, 2693.0)
    assert set(stimuli.passages) == {"chapter 9"}
    assert {"@", "+", "--"} < set(stimuli.texts)


def test_rows_are_the_scans_that_were_kept_and_know_their_run_and_their_time(loaded):
    responses = loaded.responses
    assert len(responses.row_ids) == 1_211
    assert responses.row_ids[0] == "scan.20"
    assert responses.times_s[0] == 40.0
    ends = [row for row in range(1_210) if responses.row_groups[row] != responses.row_groups[row + 1]]
    assert [(responses.row_ids[row], responses.row_ids[row + 1]) for row in ends] == [
        ("scan.310", "scan.346"), ("scan.648", "scan.684"), ("scan.993", "scan.1029"),
    ]  # fmt: skip
    assert responses.row_blocks == responses.row_groups


def test_neuroids_are_the_voxels_of_the_mask_all_each_in_the_first_region_that_holds_it(loaded, root):
    responses = loaded.responses
    assert list(dict.fromkeys(responses.subjects)) == list(SUBJECTS)
    assert responses.neuroid_ids[:5] == ("F.1", "F.2", "F.3", "F.4", "F.5")
    assert responses.rois[:5] == ("PostTemp", "PostTemp", "AntTemp", "IFG", "other")
    assert responses.values.shape == (1_211, 4 * 5 + 4 * 6)
    published = np.load(root / "wehbe2014/fMRI/data_subject_N.npy")
    np.testing.assert_array_equal(responses.values[:, -6:], published[:, 1:].astype(np.float32))


def test_the_scores_of_all_voxels_are_not_those_of_the_voxels_in_no_region(loaded):
    assert len(aggregate.targets(loaded.responses)["all"].neuroids) == 44


def test_loading_twice_gives_the_same_data_and_other_values_another_version(loaded, root, copy):
    assert datasets.load("wehbe2014", root).version == loaded.version
    path = copy / "wehbe2014/fMRI/data_subject_F.npy"
    np.save(path, np.load(path) + 1)
    assert datasets.load("wehbe2014", copy).version != loaded.version


def test_the_ceiling_is_the_published_one_and_says_so(loaded):
    assert loaded.published_ceiling == 0.104
    assert "published" in loaded.ceiling_source


def test_files_of_some_subjects_alone_are_an_error_that_names_the_others(copy):
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
        ("fMRI/data_subject_H.npy", lambda y: y[:-1], r"data_subject_H\.npy holds \(1210, 6\).*1211 x any number"),
        ("fMRI/data_subject_H.npy", lambda y: y[:, :-1], "has 5 voxels; .* masks of 6"),
        ("fMRI/data_subject_H.npy", lambda y: y.astype(str), "data_subject_H.npy holds .* of <U"),
        ("fMRI/data_subject_H.npy", _with((3, 2), np.inf), r"neuroid 'H\.2' has infinite"),
        ("fMRI/time_fmri.npy", lambda t: t[:-1], "time_fmri.npy holds .1350,.*wanted 1351"),
        ("fMRI/time_fmri.npy", _with(7, np.nan), "number 7 of the times of scans is nan"),
        ("fMRI/time_words_fmri.npy", _with(8, 0.0), "number 8 of the onsets of words is 0.0"),
        ("fMRI/runs_fmri.npy", lambda runs: runs - 1, r"runs \[0, 1, 2, 3\], wanted 1 to 4"),
        (
            "fMRI/runs_fmri.npy",
            lambda runs: np.repeat([1, 2, 3, 4], (1341, 3, 3, 4)),
            "run is short",
        ),
        ("stimuli_words.npy", lambda words: words[1:], "stimuli_words.npy holds .5175,.*wanted 5176 words"),
        ("stimuli_words.npy", _with(5, " "), "word 5 is empty"),
    ],
)
def test_a_file_of_another_form_is_named_with_what_was_wanted(copy, name, change, message):
    _changed(copy / "wehbe2014" / name, change)
    with pytest.raises(ValueError, match=message):
        datasets.load("wehbe2014", copy)


@pytest.mark.parametrize("name", ["fMRI/data_subject_H.npy", "stimuli_words.npy", "HP_subj_roi_inds.npy"])
@pytest.mark.parametrize("n_bytes", [0, 60, 400])
def test_a_file_cut_short_is_named(copy, name, n_bytes):
    path = copy / "wehbe2014" / name
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=path.name):
        datasets.load("wehbe2014", copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rois: rois.pop("K"), "subject K has no mask all, PostTemp"),
        (lambda rois: rois["K"].pop("IFG"), "subject K has no mask IFG"),
        (lambda rois: rois["K"].update(IFG=np.zeros(3, bool)), r"masks of subject K are .*'IFG': \(3,\)"),
        (lambda rois: rois["K"].update(IFG=np.full(7, 0.5)), "subject K: mask IFG is not of true and false"),
        (lambda rois: rois.update(K=masks(1)), "subject K: mask all is empty"),
    ],
)
def test_masks_that_cannot_be_used_are_named(copy, change, message):
    path = copy / "wehbe2014/HP_subj_roi_inds.npy"
    rois = np.load(path, allow_pickle=True).item()
    change(rois)
    np.save(path, rois)
    with pytest.raises(ValueError, match=message):
        datasets.load("wehbe2014", copy)


def test_masks_may_be_zeros_and_ones(loaded, copy):
    path = copy / "wehbe2014/HP_subj_roi_inds.npy"
    rois = np.load(path, allow_pickle=True).item()
    np.save(path, {s: {name: mask.astype(float) for name, mask in of.items()} for s, of in rois.items()})
    assert datasets.load("wehbe2014", copy).version == loaded.version


def test_the_folds_of_paper_are_302_302_302_and_305_rows_with_five_cut_between(loaded):
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
def test_people_predict_each_other_and_noise_predicts_nobody(loaded, protocol):
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
    """A tiny model and all controls through both protocols: (model, protocol) -> rows of model_scores of "all"."""
    out = str(tmp_path_factory.mktemp("out"))
    folder = tiny.build("gpt2", Path(out) / "tiny", sorted(set(loaded.stimuli.texts)), seed=3)
    spec = EvaluationSpec("wehbe", (str(folder),), ("wehbe2014",), controls=CONTROLS, variants=())
    plan, store = make_workload(spec, out, str(root)), Store(out)
    assert not plan.failures
    texts = {unit.features.key: unit.features for unit in plan.scores if unit.features}
    assert len(texts) == 1  # both protocols read the words alike: one pass
    for unit in texts.values():
        unit.run(backends.load("transformers", unit.source.checkpoint, "cpu"), store)
    found = {}
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(controls, "OASM_WIDTHS", (2.0,))  # of five, for the sake of time
    ceiling = Ceiling(("",), np.full((1, 44), loaded.known_ceiling()), (loaded.ceiling_source,) * 44)
    for unit in plan.scores:
        unit.run(loaded, ceiling, store)
        with store.open("scores", unit.key) as stored:
            rows = pd.read_parquet(stored / "model_scores.parquet")
        found[unit.source.name, unit.protocol.name] = rows[rows.target == "all"].iloc[0]
    monkeypatch.undo()
    return found


def test_a_model_and_all_controls_go_through_both_protocols(tables):
    assert set(tables) == {(name, protocol) for name in ("tiny", *CONTROLS) for protocol in ("paper", "strict")}
    n_features = {name: (tables[name, "paper"].n_features, tables[name, "strict"].n_features) for name, _ in tables}
    assert n_features["tiny"] == (4 * 10, 4 * tiny.WIDTH)
    assert n_features["length"] == (4, 4)
    assert n_features["random"] == (4 * 10, 4 * 64)
    assert n_features["oasm"] == (1_211, 1_211)
    for (name, _), row in tables.items():
        assert (row.ceiling, row.n_folds, row.n_neuroids) == (0.104, 4, 44)
        assert np.isnan(row.r) if row.n_nan == 44 else abs(row.r) < 0.1, name


def test_the_word_rate_says_nothing_where_words_come_at_a_fixed_rate(tables):
    assert tables["word-rate", "paper"].n_nan == tables["word-rate", "strict"].n_nan == 44


def test_there_is_no_protocol_of_brain_score():
    assert list(datasets.protocols("wehbe2014")) == ["paper", "strict", "equal"]


def test_the_published_shapes_add_up():
    assert wehbe2014.N_KEPT == 1_211
