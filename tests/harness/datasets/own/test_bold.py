"""local:FOLDER with BOLD images in BIDS style. All files are written by nibabel, numpy and pandas, not by our code."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import datasets, evaluate
from harness.datasets.own import cleaning
from harness.features import hemodynamics
from harness.models import tiny
from harness.records import Features, Layer

nibabel = pytest.importorskip("nibabel")

SHAPE, TR, N_SCANS = (5, 4, 3), 2.0, 80
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
ATLAS = np.zeros(SHAPE, dtype=np.int16)
ATLAS[0], ATLAS[1], ATLAS[3] = 1, 2, 7
WORDS = ("tea", "milk", "rain", "sun", "dog", "cat", "tree", "boy", "snow", "fire", "road", "bird")


def words_of(run):
    """Two words a second in random order, as (word, onset, duration)."""
    rng = np.random.default_rng(sum(map(ord, run)))
    onsets = np.arange(0.1, N_SCANS * TR - 1, 0.5)
    return pd.DataFrame({"onset": onsets, "duration": 0.3, "word": rng.choice(WORDS, len(onsets))})


def save(path, values, tr=TR, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    if values.ndim == 4:
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((3, 3, 3, tr))
    nibabel.save(image, path)


def volumes(courses, labels=ATLAS):
    """(x, y, z, scan) in which every voxel of parcel k has course k, and voxels of no parcel have 9."""
    values = np.full((*SHAPE, len(courses)), 9.0, dtype=np.float32)
    for k, label in enumerate(np.unique(labels[labels > 0])):
        values[labels == label] = courses[:, k]
    return values


def noise(seed, n_neuroids=3, n_scans=N_SCANS):
    return np.random.default_rng(seed).standard_normal((n_scans, n_neuroids)).astype(np.float32)


def stem(subject, run):
    return f"{subject}/func/{subject}_task-{run}_run-01"


def lab(folder, courses=None, settings=None, atlas=ATLAS, subjects=("sub-01", "sub-02"), runs=("a", "b")):
    """Two subjects who heard the same two runs; courses: (subject, run) -> (scan, parcel)."""
    for s, subject in enumerate(subjects):
        for r, run in enumerate(runs):
            own = courses[subject, run] if courses else noise(10 * s + r)
            save(folder / f"{stem(subject, run)}_bold.nii.gz", volumes(own))
            words_of(run).to_csv(folder / f"{stem(subject, run)}_events.tsv", sep="\t", index=False)
    if atlas is not None:
        save(folder / "atlas.nii.gz", atlas)
    (folder / "dataset.json").write_text(json.dumps(settings or {}))
    return folder


RAW = {"bold": {"high_pass_s": 0, "zscore": False}}


def load(folder):
    return datasets.load(f"local:{folder}", ".")


def zscored(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_parcels_of_subjects_who_heard_the_same_runs_stand_side_by_side(tmp_path):
    dataset = load(lab(tmp_path / "lab", settings=RAW))
    responses = dataset.responses
    expected = np.vstack([np.hstack([noise(0), noise(10)]), np.hstack([noise(1), noise(11)])])
    np.testing.assert_allclose(responses.values, expected, atol=1e-5)
    assert responses.neuroid_ids == tuple(f"{s}.{label}" for s in ("sub-01", "sub-02") for label in (1, 2, 7))
    assert responses.subjects == ("sub-01",) * 3 + ("sub-02",) * 3
    assert set(responses.row_blocks) == {"task-a_run-01", "task-b_run-01"} == set(dataset.stimuli.passages)
    np.testing.assert_allclose(responses.times_s, np.tile(np.arange(N_SCANS) * TR, 2))
    assert dataset.stimuli.texts == (*words_of("a").word, *words_of("b").word)
    np.testing.assert_allclose(dataset.stimuli.ends_s[:3], [0.4, 0.9, 1.4])


def test_a_parcel_is_the_mean_of_its_voxels_and_a_mask_gives_voxels(tmp_path):
    folder = lab(tmp_path / "lab", settings=RAW, subjects=("sub-01",), runs=("a",))
    values = np.random.default_rng(0).standard_normal((*SHAPE, N_SCANS)).astype(np.float32)
    values[0, 0, 0] = np.nan
    save(folder / f"{stem('sub-01', 'a')}_bold.nii.gz", values)
    expected = np.stack([np.nanmean(values[label == ATLAS], axis=0) for label in (1, 2, 7)], axis=1)
    np.testing.assert_allclose(load(folder).responses.values, expected, atol=1e-5)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[0, :2, 0] = mask[3, 1, 2] = 1
    save(folder / "mask.nii.gz", mask)
    inside = np.stack([np.nanmean(values[(label == ATLAS) & (mask > 0)], axis=0) for label in (1, 7)], axis=1)
    np.testing.assert_allclose(load(folder).responses.values, inside, atol=1e-5)
    (folder / "atlas.nii.gz").unlink()
    responses = load(folder).responses
    assert responses.neuroid_ids == ("sub-01.x0y1z0", "sub-01.x3y1z2")
    np.testing.assert_array_equal(responses.values, np.stack([values[0, 1, 0], values[3, 1, 2]], axis=1))
    notes = datasets.find(f"local:{folder}").notes
    assert "sub-01: 1 of 3 voxels have no signal and are left out." in notes


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
def test_integers_with_a_scale_are_read_a_few_volumes_at_a_time(tmp_path, extension, monkeypatch):
    monkeypatch.setattr("harness.datasets.own.images._BYTES_AT_ONCE", 3 * 60 * 8)
    folder = lab(tmp_path / "lab", settings=RAW, subjects=("sub-01",), runs=("a",))
    (folder / f"{stem('sub-01', 'a')}_bold.nii.gz").unlink()
    image = nibabel.Nifti1Image(volumes(1000 + noise(0)), AFFINE)
    image.set_data_dtype(np.int16)
    image.header.set_zooms((3, 3, 3, TR))
    image.header.set_xyzt_units("mm", "sec")
    path = folder / f"{stem('sub-01', 'a')}_bold.{extension}"
    nibabel.save(image, path)
    stored = np.asarray(nibabel.load(path).dataobj)
    expected = np.stack([stored[label == ATLAS].mean(axis=0) for label in (1, 2, 7)], axis=1)
    np.testing.assert_allclose(load(folder).responses.values, expected, rtol=1e-6)


def test_a_label_table_names_parcels_and_regions(tmp_path):
    folder = lab(tmp_path / "lab")
    (folder / "atlas.tsv").write_text("index\tname\troi\n7\tLH_PTL\ttemporal\n1\tLH_IFG\tfrontal\n2\tLH_MFG\tfrontal\n")
    responses = load(folder).responses
    assert responses.neuroid_ids[:3] == ("sub-01.LH_IFG", "sub-01.LH_MFG", "sub-01.LH_PTL")
    assert responses.rois[:3] == ("frontal", "frontal", "temporal")
    (folder / "atlas.tsv").write_text("index\tname\n7\tLH_PTL\n1\tLH_IFG\n")
    with pytest.raises(ValueError, match=r"atlas\.tsv has no index 2"):
        load(folder)


def test_subjects_may_have_atlases_of_their_own(tmp_path):
    folder = lab(tmp_path / "lab", settings=RAW)
    own = np.where(ATLAS == 2, 0, ATLAS).astype(np.int16)
    save(folder / "sub-02" / "atlas.nii.gz", own)
    assert load(folder).responses.neuroid_ids[3:] == ("sub-02.1", "sub-02.7")


def test_a_subject_without_a_run_has_no_values_there(tmp_path):
    folder = lab(tmp_path / "lab", settings=RAW)
    (folder / f"{stem('sub-02', 'a')}_bold.nii.gz").unlink()
    values = load(folder).responses.values
    assert np.isnan(values[:N_SCANS, 3:]).all()
    assert np.isfinite(values[N_SCANS:]).all()
    assert "sub-02 has 1 of 2 runs." in datasets.find(f"local:{folder}").notes


def test_sidecars_and_events_are_inherited_and_sessions_count(tmp_path):
    folder = lab(tmp_path / "lab", settings=RAW, subjects=("sub-01",), runs=("a",))
    for session in ("1", "2"):
        path = folder / f"sub-01/ses-{session}/func/sub-01_ses-{session}_task-a_run-01_bold.nii.gz"
        save(path, volumes(noise(int(session))), tr=1.0)
    (folder / f"{stem('sub-01', 'a')}_bold.nii.gz").unlink()
    (folder / f"{stem('sub-01', 'a')}_events.tsv").rename(folder / "task-a_events.tsv")
    (folder / "task-a_bold.json").write_text('{"RepetitionTime": 2.0, "StartTime": 1.0}')
    dataset = load(folder)
    assert set(dataset.responses.row_blocks) == {"ses-1_task-a_run-01", "ses-2_task-a_run-01"}
    np.testing.assert_allclose(dataset.responses.times_s[:3], [1.0, 3.0, 5.0])
    assert any("the header has a TR of 1 s" in note for note in datasets.find(f"local:{folder}").notes)


def test_derivatives_are_read_if_named_with_events_from_the_raw_folder(tmp_path):
    folder = lab(tmp_path / "lab", settings=RAW, subjects=("sub-01",), runs=("a",))
    made = folder / "derivatives" / "fmriprep"
    for space in ("T1w", "MNI"):
        name = f"sub-01/func/sub-01_task-a_run-01_space-{space}_desc-preproc_bold.nii.gz"
        save(made / name, volumes(noise(5 + (space == "MNI"))))
    assert any(note.startswith("derivatives/fmriprep is ignored") for note in datasets.find(f"local:{folder}").notes)
    settings = {"bold": {**RAW["bold"], "derivatives": "derivatives/fmriprep"}}
    (folder / "dataset.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"sub-01 has 2 files of .*task-a_run-01.*'?\"space\""):
        load(folder)
    settings["bold"]["space"] = "MNI"
    (folder / "dataset.json").write_text(json.dumps(settings))
    np.testing.assert_allclose(load(folder).responses.values, noise(6), atol=1e-5)


def textgrid(words, end):
    intervals = [(0.0, words.onset[0], "")]
    for onset, duration, word in zip(words.onset, words.duration, words.word, strict=True):
        intervals += [(onset, onset + duration, word), (onset + duration, onset + 0.5, "sp")]
    rows = "".join(f'{a}\n{b}\n"{text}"\n' for a, b, text in intervals)
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{end}\n<exists>\n1\n'
    return f'{head}"IntervalTier"\n"words"\n0\n{end}\n{len(intervals)}\n{rows}'


@pytest.mark.parametrize("name", ["stimuli/a.TextGrid", "sub-01/func/sub-01_task-a_run-01.TextGrid"])
def test_words_may_come_from_a_textgrid_that_begins_at_the_only_event(tmp_path, name):
    folder = lab(tmp_path / "lab", settings=RAW, subjects=("sub-01",), runs=("a",))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(textgrid(words_of("a"), 160))
    events = folder / f"{stem('sub-01', 'a')}_events.tsv"
    events.write_text("onset\tduration\ttrial_type\n3.5\t150\tstory\n")
    stimuli = load(folder).stimuli
    assert stimuli.texts == tuple(words_of("a").word)
    np.testing.assert_allclose(stimuli.onsets_s, words_of("a").onset + 3.5)
    events.unlink()
    np.testing.assert_allclose(load(folder).stimuli.onsets_s, words_of("a").onset)


@pytest.mark.parametrize("column", ["stimulus", "trial_type", "my words"])
def test_the_column_of_the_words(tmp_path, column):
    settings = {"bold": {**RAW["bold"], **({"words": column} if column == "my words" else {})}}
    folder = lab(tmp_path / "lab", settings=settings, subjects=("sub-01",), runs=("a",))
    words = words_of("a").rename(columns={"word": column})
    pause = pd.DataFrame({"onset": [20.2], "duration": ["n/a"], column: ["n/a"]})
    path = folder / f"{stem('sub-01', 'a')}_events.tsv"
    pd.concat([pause, words]).to_csv(path, sep="\t", index=False)
    assert load(folder).stimuli.texts == tuple(words[column])


# --- cleaning ---------------------------------------------------------------------------------------------------------


def dct(n, period_s):
    """SPM's spm_dctmtx(n, fix(2 n TR / period + 1)), without the constant, from its formula."""
    order = int(2 * n * TR / period_s + 1)
    return np.array([[np.cos(np.pi * (2 * t + 1) * k / (2 * n)) for k in range(1, order)] for t in range(n)])


def test_drift_and_confounds_are_removed_as_by_least_squares_in_one_regression(tmp_path):
    rng = np.random.default_rng(4)
    settings = {"bold": {"high_pass_s": 64, "confounds": ["trans_*", "csf"], "zscore": False}}
    runs, confounds = ("a", "b"), {}
    for run in runs:
        confounds[run] = pd.DataFrame(
            rng.standard_normal((N_SCANS, 4)).cumsum(axis=0) * [1, 1e-4, 1e3, 1],
            columns=["trans_x", "trans_x_derivative1", "csf", "rot_x"],
        )
    courses = {("sub-01", run): 1000 + 5 * noise(k).cumsum(axis=0) for k, run in enumerate(runs)}
    folder = lab(tmp_path / "lab", courses, settings, subjects=("sub-01",))
    for run in runs:
        table = confounds[run].astype(object)
        table.loc[0, "trans_x_derivative1"] = "n/a"
        table.to_csv(folder / f"{stem('sub-01', run)}_desc-confounds_timeseries.tsv", sep="\t", index=False)
        confounds[run].loc[0, "trans_x_derivative1"] = confounds[run].loc[1, "trans_x_derivative1"]
    got = load(folder).responses.values
    for k, run in enumerate(runs):
        x = np.column_stack([np.ones(N_SCANS), dct(N_SCANS, 64), confounds[run].iloc[:, :3]])
        x[:, 1:] /= np.abs(x[:, 1:]).max(axis=0)
        y = courses["sub-01", run].astype(float)
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        np.testing.assert_allclose(got[k * N_SCANS : (k + 1) * N_SCANS] - y.mean(axis=0), residual, atol=2e-3)
        assert residual.std() > 1
    (folder / "dataset.json").write_text(json.dumps({"bold": {**settings["bold"], "zscore": True}}))
    np.testing.assert_allclose(load(folder).responses.values[N_SCANS:], zscored(residual), atol=2e-3)


def test_the_cosines_are_those_of_spm():
    for n, period in ((80, 64), (300, 128), (55, 100)):
        ours, theirs = cleaning.cosines(n, TR, period), dct(n, period)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(
            ours / np.linalg.norm(ours, axis=0), theirs / np.linalg.norm(theirs, axis=0), atol=1e-12
        )


def test_a_drift_is_removed_by_default_and_each_run_is_standardised(tmp_path):
    drift = np.cos(np.pi * (np.arange(N_SCANS) + 0.5) / N_SCANS)[:, None]
    courses = {("sub-01", run): 1e4 * (k + 1) + noise(k) + 500 * drift for k, run in enumerate("ab")}
    folder = lab(tmp_path / "lab", courses, subjects=("sub-01",))
    values = load(folder).responses.values
    np.testing.assert_allclose(values[:N_SCANS].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values[:N_SCANS].std(axis=0), 1, atol=1e-5)
    assert np.corrcoef(values[:N_SCANS, 0], noise(0)[:, 0])[0, 1] > 0.98
    assert load(folder).responses.unit == "BOLD, drift of periods above 128 s removed, z-scored in each run"


# --- a planted truth --------------------------------------------------------------------------------------------------


def planted(run, weights, seed, signal):
    """(scan, parcel) responses: mean word vectors of the scan two before, times weights, and noise."""
    rng = np.random.default_rng(seed)
    vectors = {word: np.random.default_rng(k).standard_normal(4) for k, word in enumerate(WORDS)}
    words, scans = words_of(run), np.zeros((N_SCANS, 4))
    for scan in range(N_SCANS):
        end = (scan - 2) * TR
        heard = words.word[(words.onset + words.duration > end - TR) & (words.onset + words.duration <= end)]
        if len(heard):
            scans[scan] = np.mean([vectors[word] for word in heard], axis=0)
    return (signal * scans @ weights + rng.standard_normal((N_SCANS, 3))).astype(np.float32), vectors


def held_out_r(folder, vectors, delays):
    """r of a least-squares fit on run a, tested on run b, by features at scans."""
    dataset = load(folder)
    protocol = datasets.protocols(f"local:{folder}")["strict"]
    assert protocol.sampling.delays == delays
    features = Features(
        {Layer("v", 0): np.array([vectors[text] for text in dataset.stimuli.texts], dtype=np.float32)},
        dataset.stimuli.ids,
    )
    at_scans = hemodynamics.at_scans(features, dataset.stimuli, dataset.responses, protocol.sampling)
    x, y = np.asarray(at_scans.values[Layer("v", 0)][:]), dataset.responses.values
    weights = np.linalg.lstsq(x[:N_SCANS], y[:N_SCANS], rcond=None)[0]
    predicted = x[N_SCANS:] @ weights
    return np.array([np.corrcoef(predicted[:, k], y[N_SCANS:, k])[0, 1] for k in range(y.shape[1])])


@pytest.mark.parametrize(("given", "delays"), [([2], (2,)), (3, (1, 2, 3)), (None, (1, 2, 3, 4))])
def test_a_planted_response_is_found_and_noise_is_at_zero(tmp_path, given, delays):
    weights = np.random.default_rng(9).standard_normal((4, 3))
    courses = {
        (subject, run): planted(run, weights, 7 * s + r, signal)[0]
        for s, (subject, signal) in enumerate((("sub-01", 4.0), ("sub-02", 0.0))) for r, run in enumerate("ab")
    }  # fmt: skip
    vectors = planted("a", weights, 0, 1.0)[1]
    settings = {"response": {"delays": given}} if given else {}
    r = held_out_r(lab(tmp_path / "lab", courses, settings), vectors, delays)
    assert (r[:3] > 0.8).all()
    assert np.abs(r[3:]).mean() < 0.2


def test_the_canonical_response_finds_a_response_of_that_form(tmp_path):
    """Words are impulses at 100 Hz; sub-02 has noise alone."""
    from scipy.stats import gamma

    vectors, rng = planted("a", np.zeros((4, 3)), 0, 1.0)[1], np.random.default_rng(9)
    seconds, weights, courses = np.arange(0, 32, 0.01), rng.standard_normal((4, 3)), {}
    response = gamma.pdf(seconds, 6) - gamma.pdf(seconds, 16) / 6
    for run in "ab":
        words = words_of(run)
        heard = np.zeros((int(100 * N_SCANS * TR) + 1, 4))
        for word, end in zip(words.word, words.onset + words.duration, strict=True):
            heard[round(100 * end)] += vectors[word]
        driven = np.array([np.convolve(heard[:, k], response)[:: round(100 * TR)][:N_SCANS] for k in range(4)]).T
        driven = 4 * driven @ weights / driven.std()
        for subject, signal in (("sub-01", 1.0), ("sub-02", 0.0)):
            courses[subject, run] = (signal * driven + rng.standard_normal((N_SCANS, 3))).astype(np.float32)
    folder = lab(tmp_path / "lab", courses, {"response": {"pool": "hrf"}})
    r = held_out_r(folder, vectors, (0,))
    assert (r[:3] > 0.8).all()
    assert np.abs(r[3:]).mean() < 0.25
    (note,) = [note for note in datasets.protocols(f"local:{folder}")["strict"].notes if "hemodynamic" in note]
    assert note == "Each word has the canonical hemodynamic response. As given in dataset.json."


def test_a_wrong_delay_does_not_find_it(tmp_path):
    weights = np.random.default_rng(9).standard_normal((4, 3))
    courses = {("sub-01", run): planted(run, weights, r, 4.0)[0] for r, run in enumerate("ab")}
    folder = lab(tmp_path / "lab", courses, {"response": {"delays": [5]}}, subjects=("sub-01",))
    assert np.abs(held_out_r(folder, planted("a", weights, 0, 1.0)[1], (5,))).mean() < 0.25


@pytest.mark.slow
def test_scores_of_the_folder_find_the_planted_features(tmp_path):
    """From files to scores, in this process."""
    weights, runs = np.random.default_rng(9).standard_normal((4, 3)), "abcd"
    courses = {
        (subject, run): planted(run, weights, 10 * s + r, signal)[0]
        for s, (subject, signal) in enumerate((("sub-01", 4.0), ("sub-02", 0.0))) for r, run in enumerate(runs)
    }  # fmt: skip
    folder = lab(tmp_path / "lab", courses, {"response": {"delays": 3}}, runs=runs)
    vectors = planted("a", weights, 0, 1.0)[1]
    features = np.array([vectors[text] for text in load(folder).stimuli.texts])
    tiny.build("llama", tmp_path / "model", [" ".join(WORDS)] * 20, 7)
    controls = {"planted": features}
    results = evaluate(
        str(tmp_path / "model"), f"local:{folder}", "strict", controls=controls, progress=False, variants=()
    )
    of_planted = results.neuroid_scores[lambda frame: frame["model"] == "planted"].set_index("neuroid_id")["r"]
    assert of_planted[[f"sub-01.{label}" for label in (1, 2, 7)]].min() > 0.8
    assert abs(of_planted[[f"sub-02.{label}" for label in (1, 2, 7)]].mean()) < 0.2


@pytest.mark.parametrize("has_grid", [False, True])
def test_words_that_look_like_missing_values_or_silences_are_words(tmp_path, has_grid):
    folder = lab(tmp_path / "lab", subjects=("sub-01",), runs=("a",))
    words = words_of("a")
    words.loc[:5, "word"] = ["na", "nan", "NaN", "null", "silence", "pause"]
    events = folder / f"{stem('sub-01', 'a')}_events.tsv"
    if has_grid:
        events.unlink()
        (folder / f"{stem('sub-01', 'a')}.TextGrid").write_text(textgrid(words, 160))
    else:
        words.to_csv(events, sep="\t", index=False)
    assert load(folder).stimuli.texts == tuple(words.word)


def test_words_after_the_last_scan_and_rows_without_a_word_are_counted(tmp_path):
    folder = lab(tmp_path / "lab", subjects=("sub-01",))
    n_late = sum(int((words_of(run).onset > (N_SCANS - 1) * TR).sum()) for run in "ab")
    assert n_late > 0
    events = words_of("a")
    events.loc[5:7, "word"] = "n/a"
    events.to_csv(folder / f"{stem('sub-01', 'a')}_events.tsv", sep="\t", index=False)
    notes = datasets.find(f"local:{folder}").notes
    assert f"{n_late} words of 2 runs begin after the last scan, and are in none." in notes
    assert "3 rows of events or TextGrids are no words (silences, n/a) and omitted." in notes


# --- what is refused --------------------------------------------------------------------------------------------------


def events(change):
    def apply(folder):
        for subject in ("sub-01", "sub-02"):
            change(words_of("a")).to_csv(folder / f"{stem(subject, 'a')}_events.tsv", sep="\t", index=False)

    return apply


def image(values, name="atlas.nii.gz", **options):
    return lambda folder: save(folder / name, values, **options)


def settings(**bold):
    return lambda folder: (folder / "dataset.json").write_text(json.dumps({"bold": bold}))


BOLD = f"{stem('sub-02', 'a')}_bold.nii.gz"
EMPTY = volumes(noise(0))
EMPTY[ATLAS == 2] = np.nan
SHIFTED = AFFINE.copy()
SHIFTED[0, 3] = 4


@pytest.mark.parametrize(("damage", "message"), [
    (events(lambda w: w.assign(onset=w.onset * 1000, duration=w.duration * 1000)), "up to 300 s; are they in milli"),
    (events(lambda w: w.assign(onset=w.onset * 1000)), "are onsets in milliseconds"),
    (events(lambda w: w.assign(onset=w.onset + 500)), "are they those of another run"),
    (events(lambda w: w.drop(columns="word")), r"events\.tsv has no column 'word'"),
    (events(lambda w: w.drop(columns="duration")), "has no column 'duration'"),
    (events(lambda w: w.assign(duration=-1.0)), "column 'duration' is negative"),
    (events(lambda w: w.assign(duration=["n/a", *w.duration[1:]])), "column 'duration' is empty for"),
    (events(lambda w: w.drop(columns="word").assign(trial_type="listen")), "seem to be conditions"),
    (image(volumes(noise(0, n_scans=79)), BOLD), "have 80 and 79 scans"),
    (image(volumes(noise(0)), BOLD, tr=1.5), r"have different TRs or start times \(2 and 1\.5 s\)"),
    (image(volumes(noise(0)), BOLD, tr=2000.0), r"the TR is 2000 s \(is it in milliseconds\?\)"),
    (image(volumes(noise(0)), BOLD, tr=0.0), "the TR is 0 s; write RepetitionTime"),
    (image(volumes(noise(0))[..., 0], BOLD), r"wanted \(x, y, z, scan\)"),
    (image(volumes(noise(0)), BOLD, affine=SHIFTED), r"has another affine than atlas\.nii\.gz"),
    (image(ATLAS[:4]), r"has 5 x 4 x 3 voxels, atlas\.nii\.gz 4 x 4 x 3; resample"),
    (image(ATLAS * np.float32(0.5)), "wanted whole numbers"),
    (image(ATLAS * 0), "is 0 everywhere"),
    (lambda folder: [save(folder / f"{stem('sub-02', run)}_bold.nii.gz", EMPTY) for run in "ab"],
     r"1 parcels have no signal .*: sub-02\.2; do atlas and images overlap"),
    (image(np.where(ATLAS == 0, 8, ATLAS).astype(np.int16)), r"no signal .*sub-01\.8"),
    (lambda folder: (folder / "atlas.nii.gz").unlink(), r"neither mask\.nii\.gz .* nor atlas\.nii\.gz"),
    (lambda folder: (folder / "atlas.nii.gz").write_bytes(b"x"), r"atlas\.nii\.gz cannot be read as NIfTI"),
    (lambda folder: [path.unlink() for path in folder.glob("sub-*/func/*_events.tsv")],
     "has no events; add sub-01_task-a"),
    (lambda folder: words_of("c").to_csv(folder / f"{stem('sub-02', 'a')}_events.tsv", sep="\t", index=False),
     r"different words \(word 1 is .*name runs after what was presented"),
    (lambda folder: words_of("a").assign(onset=words_of("a").onset + 1).to_csv(
        folder / f"{stem('sub-02', 'a')}_events.tsv", sep="\t", index=False), "the same words up to 1 s apart"),
    (settings(confounds=["csf"]), r"has no desc-confounds_timeseries\.tsv"),
    (settings(confound=["csf"]), "key 'confound' is unknown; the nearest is 'confounds'"),
    (settings(high_pass_s=1), "choose fewer confounds, or a larger high_pass_s"),
    (settings(high_pass_s=-1), "high_pass_s is -1"),
    (settings(derivatives="fmriprep"), "is not a folder"),
    (settings(space="MNI"), "of space 'MNI'; there is none"),
])  # fmt: skip
def test_what_looks_wrong_is_refused(tmp_path, damage, message):
    folder = lab(tmp_path / "lab")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_file_that_ends_early_is_refused(tmp_path):
    folder = lab(tmp_path / "lab")
    path = folder / BOLD
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1000]))
    with pytest.raises(ValueError, match=r"sub-02_task-a_run-01_bold\.nii\.gz ends before scan 80 of 80"):
        load(folder)
    path.write_bytes(gzip.compress(content)[:-200])
    with pytest.raises(ValueError, match=r"sub-02_task-a_run-01_bold\.nii\.gz is damaged"):
        load(folder)


@pytest.mark.parametrize(("delays", "message"), [
    (0, "delays is 0; wanted a number of TRs"), ([1, 1], "repeat a delay"), ([1.5], "whole TRs"),
    (True, "delays is True"), ("4", "delays is '4'"),
])  # fmt: skip
def test_delays_that_are_no_whole_trs_are_refused(tmp_path, delays, message):
    with pytest.raises(ValueError, match=message):
        load(lab(tmp_path / "lab", settings={"response": {"delays": delays}}))


@pytest.mark.parametrize(("response", "message"), [
    ({"pool": "hrf", "delays": [1, 2]}, "leave out the delays"), ({"pool": "hfr"}, "hrf"),
])  # fmt: skip
def test_a_response_that_cannot_be_is_refused(tmp_path, response, message):
    with pytest.raises(ValueError, match=message):
        load(lab(tmp_path / "lab", settings={"response": response}))


def test_files_that_are_not_read_are_named(tmp_path):
    folder = lab(tmp_path / "lab")
    (folder / f"{stem('sub-01', 'a')}_desc-confounds_timeseries.tsv").write_text("csf\n1\n")
    (folder / "behaviour.csv").write_text("a\n1\n")
    notes = datasets.find(f"local:{folder}").notes
    assert "behaviour.csv is ignored: its name is not known." in notes
    assert any(note.startswith("sub-01_task-a_run-01_desc-confounds_timeseries.tsv and others") for note in notes)


def test_without_nibabel_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    folder = lab(tmp_path / "lab")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match=r"pip install 'brain-alignment-harness\[neuroimaging\]'"):
        datasets.find(f"local:{folder}")


def test_the_folder_is_not_written_to(tmp_path):
    folder = lab(tmp_path / "lab")
    before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
    load(folder)
    assert before == {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
