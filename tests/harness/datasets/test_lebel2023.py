"""LeBel2023 from files of the published form; the clock is that of the authors' code."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from harness import datasets
from harness.datasets import lebel2023
from harness.features import hemodynamics
from harness.records import Features, Layer
from harness.scoring import folds
from tests.harness.datasets import lebel_files


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lebel")
    lebel_files.write(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(root):
    return datasets.load("lebel2023", root)


def test_subjects_stand_side_by_side_and_what_was_not_heard_is_nan(dataset, root):
    responses = dataset.responses
    assert responses.values.shape == (360, 17)  # a voxel of UTS03 has no values
    assert [responses.subjects.count(subject) for subject in lebel_files.SUBJECTS] == [6, 6, 5]
    assert "UTS03.4" not in responses.neuroid_ids
    rows = np.array([story == "story03" for story in responses.row_blocks])
    columns = np.array(responses.subjects) == "UTS02"
    np.testing.assert_array_equal(np.isnan(responses.values), rows[:, np.newaxis] & columns)
    with h5py.File(root / "ds003020/derivative/preprocessed_data/UTS03/story05.hf5") as file:
        wanted = file["data"][7, 5]
    row, column = responses.row_ids.index("story05.7"), responses.neuroid_ids.index("UTS03.5")
    assert responses.values[row, column] == pytest.approx(wanted, rel=1e-6)


def test_words_have_times_and_no_silence_or_noise(dataset):
    stimuli = dataset.stimuli
    assert list(dict.fromkeys(stimuli.passages)) == list(lebel_files.STORIES)
    assert stimuli.ids[0] == "story00.1"
    assert not {text.lower().strip("{}") for text in stimuli.texts} & {"", "sp", "lg"}
    assert len(stimuli) == 12 * 178
    assert stimuli.onsets_s[:2].tolist() == [1.0, 1.5]
    assert stimuli.ends_s[:2].tolist() == [1.4, 1.9]


def test_scans_have_the_times_of_the_authors_code(dataset):
    """encoding.py: triggers every 2 s, the sound 10 s after the first; [5 + trim : -trim] of them, trim 5, are kept."""
    n_triggers = lebel_files.N_SCANS + lebel_files.N_NOT_KEPT - 5
    wanted = (np.arange(n_triggers) * 2.0 - 10.0)[10:-5]
    assert len(wanted) == lebel_files.N_SCANS
    np.testing.assert_array_equal(dataset.responses.times_s.reshape(12, -1), np.tile(wanted, (12, 1)))


def test_a_scan_has_the_words_of_one_to_four_scans_earlier(dataset):
    """A feature that is the number of the word in its story, under STRICT, against a count by hand."""
    numbers = np.array([[float(word.split(".")[1])] for word in dataset.stimuli.ids])
    words = Features({Layer("made", 0): numbers}, dataset.stimuli.ids)
    scans = hemodynamics.at_scans(words, dataset.stimuli, dataset.responses, lebel2023.STRICT.sampling)
    (values,) = scans.values.values()
    row = scans.row_ids.index("story04.10")  # at 30 s: the words that ended in (26, 28], (24, 26], (22, 24], (20, 22]
    ends = np.array([k / 2 + 0.4 for k in range(2, 180)])
    wanted = [np.flatnonzero((ends > end - 2) & (ends <= end)).mean() + 1 for end in (28.0, 26.0, 24.0, 22.0)]
    np.testing.assert_allclose(values[row], wanted)


def test_strict_holds_out_whole_stories(dataset):
    drawn = folds.of_recording(lebel2023.STRICT.folds, dataset)
    assert len(drawn) == 10
    stories = np.array(dataset.responses.row_groups)
    for _, fold in drawn:
        assert not set(stories[fold.train]) & set(stories[fold.test])


def _shorter(folder):
    with h5py.File(folder / "preprocessed_data/UTS01/story00.hf5", "w") as file:
        file["data"] = np.zeros((29, 6))


def _wider(folder):
    with h5py.File(folder / "preprocessed_data/UTS01/story00.hf5", "w") as file:
        file["data"] = np.zeros((30, 7))


def _cut(folder):
    path = folder / "preprocessed_data/UTS01/story00.hf5"
    path.write_bytes(path.read_bytes()[:100])


def _renamed(folder):
    with h5py.File(folder / "preprocessed_data/UTS01/story00.hf5", "w") as file:
        file["other"] = np.zeros((30, 6))


def _no_grid(folder):
    (folder / "TextGrids/story01.TextGrid").unlink()


def _one_tier(folder):
    text = lebel_files.textgrid({"word": lebel_files.words_of(1)}, is_long=True)
    (folder / "TextGrids/story01.TextGrid").write_text(text)


def _no_responses(folder):
    for path in folder.glob("preprocessed_data/*/*.hf5"):
        path.unlink()


@pytest.mark.parametrize(("damage", "message"), [
    (_shorter, r"story00\.hf5: `data` has shape \(29, 6\) of float64, wanted 30 scans"),
    (_wider, r"UTS01 has \[6, 7\] voxels in different stories"),
    (_cut, r"story00\.hf5 cannot be read as HDF5"),
    (_renamed, r"story00\.hf5 cannot be read as HDF5 with a data set `data`"),
    (_no_grid, r"story story01 has responses but no .*story01\.TextGrid"),
    (_one_tier, r"story01\.TextGrid has 1 tiers, wanted phonemes and words"),
    (_no_responses, r"preprocessed_data has no file SUBJECT/STORY\.hf5"),
])  # fmt: skip
def test_the_error_for_other_files_names_the_fault(damage, message, tmp_path):
    lebel_files.write(tmp_path, n_stories=2)
    damage(tmp_path / "ds003020" / "derivative")
    with pytest.raises(ValueError, match=message):
        lebel2023.load(tmp_path)
