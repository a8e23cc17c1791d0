"""Wehbe2014 from small MAT files of the published form; other files are rejected."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from numpy.lib.recfunctions import repack_fields

from harness import datasets
from harness.datasets import wehbe2014, wehbe2014_authors
from harness.scoring import folds
from tests.harness.datasets import wehbe_files, wehbe_mat_files


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("wehbe-authors")


@pytest.fixture(scope="module")
def data(root):
    return wehbe_mat_files.write(root)


@pytest.fixture(scope="module")
def dataset(root, data):
    return datasets.load("wehbe2014-authors", root)


@pytest.fixture
def copy(root, dataset, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_rows_words_and_folds_are_those_of_wehbe2014(dataset, tmp_path):
    wehbe_files.write(tmp_path)
    other = datasets.load("wehbe2014", tmp_path)
    for name in ("row_ids", "row_groups", "row_blocks"):
        assert getattr(dataset.responses, name) == getattr(other.responses, name)
    np.testing.assert_array_equal(dataset.responses.times_s, other.responses.times_s)
    np.testing.assert_array_equal(dataset.stimuli.onsets_s, other.stimuli.onsets_s)
    np.testing.assert_array_equal(dataset.stimuli.ends_s, other.stimuli.ends_s)
    assert dataset.stimuli.ids == other.stimuli.ids
    for ours, theirs in ((wehbe2014_authors.PAPER, wehbe2014.PAPER), (wehbe2014_authors.STRICT, wehbe2014.STRICT)):
        assert ours.hash == theirs.hash
        assert "own files" in ours.notes[0]
        drawn = [folds.of_recording(ours.folds, each) for each in (dataset, other)]
        for (_, fold), (_, same) in zip(*drawn, strict=True):
            np.testing.assert_array_equal(fold.test, same.test)
            np.testing.assert_array_equal(fold.train, same.train)


def test_voxels_have_their_aal_region_and_one_without_signal_is_left_out(dataset):
    responses = dataset.responses
    assert responses.values.shape == (1_211, 8 * 6 - 1)
    assert "3.5" not in responses.neuroid_ids
    region_of = dict(zip(responses.neuroid_ids, responses.rois, strict=True))
    wanted = ("", "Temporal_Mid_L", "Frontal_Inf_Tri_L", "Angular_L", "", "Temporal_Mid_L")
    assert tuple(region_of[f"1.{voxel}"] for voxel in range(6)) == wanted
    assert set(responses.subjects) == set("12345678")
    assert np.isnan(dataset.known_ceilings()).all()  # that of wehbe2014 does not apply


def test_drift_is_removed_and_each_run_is_z_scored(dataset, data):
    """Against least squares on a constant and cosines, written out run by run."""
    column = dataset.responses.neuroid_ids.index("5.2")
    expected = []
    for run in range(1, 5):
        course = data[4, run == wehbe_mat_files.RUNS, 2]
        n = len(course)
        orders = np.arange(int(2 * n * 2.0 / 128) + 1)
        basis = np.cos(np.pi * orders * (np.arange(n)[:, np.newaxis] + 0.5) / n)
        rest = course - basis @ np.linalg.lstsq(basis, course, rcond=None)[0]
        expected.append((rest / rest.std())[20:-15])
    np.testing.assert_allclose(dataset.responses.values[:, column], np.concatenate(expected), atol=1e-3)


def test_words_are_the_tokens_as_shown(dataset):
    assert dataset.stimuli.texts == tuple(np.random.default_rng(0).choice(wehbe_files._TEXT, 5_176).tolist())


def test_a_label_of_the_last_name_is_no_region_either(copy, data):
    content = wehbe_mat_files.variables(1, data[0])
    content["meta"]["colToROInum"] = np.full((1, 6), 4.0)
    wehbe_mat_files.save(copy / "wehbe2014-authors/subject_1.mat", content)
    responses = datasets.load("wehbe2014-authors", copy).responses
    assert {roi for roi, subject in zip(responses.rois, responses.subjects, strict=True) if subject == "1"} == {""}


def _set(name, value):
    return lambda content: content.update({name: value})


def _shift_words(content):
    content["words"] = content["words"][:, 1:]


def _no_text(content):
    content["words"] = repack_fields(content["words"][["start", "length"]])


def _other_word(content):
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = "Hagrid"
    content["words"][0, 17]["text"] = cell


def _number_as_word(content):
    content["words"][0, 17]["text"] = 4.0


def _late(content):
    content["words"][0, 17]["start"] += 0.1


def _same_time(content):
    content["time"][8, 0] = content["time"][7, 0]


def _runs(content):
    content["time"][:, 1] -= 1


def _not_finite(content):
    content["data"][4, 3] = np.nan


def _without(name):
    return lambda content: content.pop(name)


def _regions(numbers):
    return lambda content: content["meta"].update({"colToROInum": np.array([numbers], dtype=np.float64)})


@pytest.mark.parametrize(("change", "message"), [
    (_set("data", np.zeros((1350, 6))), r"subject_2\.mat: `data` has shape \(1350, 6\), wanted 1351 scans x voxels"),
    (_set("time", np.zeros((1351, 3))), r"subject_2\.mat: `time` has shape \(1351, 3\), wanted 1351 scans x"),
    (_without("words"), r"subject_2\.mat has no variable words"),
    (_without("meta"), r"subject_2\.mat has no variable meta"),
    (_shift_words, r"subject_2\.mat: `words` has 5175 elements, wanted 5176 with the fields text, start"),
    (_no_text, r"subject_2\.mat: `words` has 5176 elements, wanted 5176 with the fields text, start"),
    (_number_as_word, r"subject_2\.mat: word 17 is 4.*, wanted a text"),
    (_other_word, r"subject_1\.mat and .*subject_2\.mat have different words"),
    (_late, r"subject_1\.mat and .*subject_2\.mat have different onsets of words"),
    (_same_time, r"number 8 of the times of scans is 14\.0, wanted a later time"),
    (_runs, r"runs \[0, 1, 2, 3\], wanted 1 to 4 in order"),
    (_not_finite, r"subject_2\.mat: voxel 3 has a value that is not finite"),
    (_regions([1, 2, 3]), r"`meta` has 3 region numbers \(colToROInum\) and 4 names .* for 6 voxels"),
    (_regions([1, 2, 3, 4, 5, 0]), r"wanted a number of 0 to 4 for each"),
])  # fmt: skip
def test_the_error_for_a_file_of_another_form_names_what_was_wanted(copy, data, change, message):
    content = wehbe_mat_files.variables(2, data[1].copy())
    change(content)
    wehbe_mat_files.save(copy / "wehbe2014-authors/subject_2.mat", content)
    with pytest.raises(ValueError, match=message):
        datasets.load("wehbe2014-authors", copy)


@pytest.mark.parametrize("fraction", [0, 0.0001, 0.3, 0.9])
def test_the_error_for_a_truncated_file_names_it(copy, fraction):
    path = copy / "wehbe2014-authors/subject_3.mat"
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"subject_3\.mat"):
        datasets.load("wehbe2014-authors", copy)


def test_the_error_for_a_file_of_version_7_3_names_it(copy):
    path = copy / "wehbe2014-authors/subject_4.mat"
    path.unlink()
    with h5py.File(path, "w", userblock_size=512) as file:
        file["data"] = np.zeros((6, 1351))
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + path.read_bytes()[len(head) :])
    with pytest.raises(ValueError, match=r"subject_4\.mat cannot be read as a MAT file of version 5"):
        datasets.load("wehbe2014-authors", copy)


def test_the_error_for_a_missing_file_names_its_page(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"subject_1\.mat.*cs\.cmu\.edu/~fmri/plosone"):
        datasets.load("wehbe2014-authors", tmp_path)
