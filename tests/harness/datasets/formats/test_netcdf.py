"""Pereira2018 and Blank2014 from complete, shuffled and damaged files of the published format."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import xarray
from sklearn.model_selection import ShuffleSplit

from harness.datasets import blank2014, pereira2018
from harness.scoring import folds
from harness.text import contexts
from tests.harness.datasets import published

FORMS = {"pereira2018": "assy_Pereira2018_language.nc", "blank2014": "assy_Blank2014_fROI.nc"}
READ = {"pereira2018": pereira2018.read, "blank2014": blank2014.read}
WRITE = {"pereira2018": published.pereira, "blank2014": published.blank}


@pytest.mark.parametrize("name", FORMS)
def test_our_writer_writes_the_original_format(name, shared, tmp_path):
    original = xarray.open_dataset(shared / "data" / "forms" / FORMS[name], engine="h5netcdf").load()
    ours = xarray.open_dataset(WRITE[name](tmp_path / "written.nc"), engine="h5netcdf").load()
    assert set(ours.variables) == set(original.variables)
    for variable in original.variables:
        assert ours[variable].dims == original[variable].dims
        assert ours[variable].dtype.kind == original[variable].dtype.kind, variable


def test_pereira_is_read_in_the_original_format(shared):
    dataset = pereira2018.read(shared / "data" / "forms" / FORMS["pereira2018"])
    responses, stimuli = dataset.responses, dataset.stimuli
    assert responses.values.shape == (89, 125)
    assert responses.parts == ("243sentences", "384sentences")
    assert responses.row_ids == stimuli.ids
    assert stimuli.ids[:2] == ("243sentences.0", "243sentences.1")
    assert stimuli.passages[0] == "243sentences.1"
    assert stimuli.groups[0] == "243sentences.beekeeping"
    assert (len(set(stimuli.passages)), len(set(stimuli.groups))) == (24, 14)
    rows = np.array(responses.row_parts) == "243sentences"
    for subject, in_243, in_384 in (("018", 1, 1), ("199", 0, 1), ("215", 1, 0), ("288", 1, 1), ("407", 0, 1)):
        values = responses.values[:, np.array(responses.subjects) == subject]
        assert np.isfinite(values[rows]).all() == bool(in_243)
        assert np.isfinite(values[~rows]).all() == bool(in_384)
    assert responses.of_part("243sentences")[0].values.shape == (41, 75)


def test_the_values_of_pereira_have_the_ids_of_the_file(shared):
    path = shared / "data" / "forms" / FORMS["pereira2018"]
    raw = xarray.open_dataset(path, engine="h5netcdf").load()
    responses = pereira2018.read(path).responses
    rows, columns = list(raw["stimulus_id"].values), list(raw["neuroid_id"].values)
    for row, column in ((0, 0), (40, 3), (88, 124)):
        wanted = raw["data"].values[rows.index(responses.row_ids[row]), columns.index(responses.neuroid_ids[column])]
        np.testing.assert_allclose(responses.values[row, column], wanted, rtol=1e-6)


def test_the_sizes_of_a_full_pereira_are_the_published_ones():
    rows, subjects = list(published.sentences(published.FULL)), published.FULL.subjects.values()
    for name, n_sentences, n_passages, n_subjects, n_voxels in (
        ("384sentences", 384, 96, 9, 12155),
        ("243sentences", 243, 72, 6, 8031),
    ):
        sentences = [row for row in rows if row["experiment"] == name]
        lengths = Counter(row["passage_index"] for row in sentences)
        assert (len(sentences), len(lengths), len({row["story"] for row in sentences})) == (n_sentences, n_passages, 24)
        assert set(lengths.values()) <= {3, 4}
        took_part = [n for n, experiments in subjects if name in experiments]
        assert (len(took_part), sum(took_part)) == (n_subjects, n_voxels)
    assert (len(subjects), sum(n for n, _ in subjects)) == (10, 13553)


def test_blank_is_read_in_the_original_format(shared):
    path = shared / "data" / "forms" / FORMS["blank2014"]
    dataset, raw = blank2014.read(path), xarray.open_dataset(path, engine="h5netcdf").load()
    responses, stimuli = dataset.responses, dataset.stimuli
    assert responses.values.shape == (120, 60)
    assert list(dict.fromkeys(stimuli.passages)) == ["Aqua", "Boar", "MatchstickSeller"]
    assert len(set(responses.rois)) == 12
    built = contexts.build(stimuli, "passage")
    for story, context in zip(("Aqua", "Boar", "MatchstickSeller"), built, strict=True):
        wanted = "".join(raw["stimulus"].values[raw["story"].values == story])  # the original file is in this order
        assert context.text == wanted.strip()
        assert "  " not in context.text


@pytest.mark.parametrize("name", FORMS)
def test_stimuli_and_responses_do_not_depend_on_the_order_of_rows_in_the_file(name, tmp_path):
    one, two = _in_two_orders(name, tmp_path)
    for field in ("ids", "texts", "passages", "groups", "labels"):
        assert getattr(one.stimuli, field) == getattr(two.stimuli, field)
    for field in ("row_ids", "row_groups", "row_blocks", "row_parts", "neuroid_ids", "subjects", "rois"):
        assert getattr(one.responses, field) == getattr(two.responses, field)
    np.testing.assert_array_equal(one.responses.values, two.responses.values)
    assert sorted(two.responses.file_rows) == list(range(len(two.stimuli)))
    assert two.version != one.version  # random splits are drawn over the order of the file


@pytest.mark.parametrize("name", FORMS)
def test_random_splits_are_drawn_over_the_rows_of_the_file_in_each_experiment(name, tmp_path):
    for dataset in _in_two_orders(name, tmp_path):
        responses, ours = dataset.responses, folds.of_recording(pereira2018.PAPER.folds, dataset)
        for part in responses.parts:
            rows = np.flatnonzero(np.array(responses.row_parts) == part)
            in_file = rows[np.argsort(responses.file_rows[rows])]
            wanted = ShuffleSplit(10, test_size=0.1, random_state=1).split(in_file)
            drawn = [fold for of, fold in ours if of == part]
            for fold, (train, test) in zip(drawn, wanted, strict=True):
                np.testing.assert_array_equal(fold.train, in_file[train])
                np.testing.assert_array_equal(fold.test, in_file[test])


def _in_two_orders(name, folder):
    """A recording from a file, and from one with the same rows in random order."""
    path = WRITE[name](folder / "one.nc")
    raw = xarray.open_dataset(path, engine="h5netcdf").load()
    order = np.random.default_rng(5).permutation(raw.sizes["presentation"])
    raw.isel(presentation=order).to_netcdf(folder / "two.nc", engine="h5netcdf")
    return READ[name](path), READ[name](folder / "two.nc")


def _without(name):
    return lambda raw: raw.drop_vars(name)


def _with(name, change):
    def changed(raw):
        raw[name] = raw[name].dims, change(raw[name].values.copy())
        return raw

    return changed


def _double(values):
    values[1] = values[0]
    return values


def _all(value):
    return lambda values: np.full_like(values, value)


def _one_column(value):
    return lambda values: np.where(np.arange(values.shape[1]) == 3, value, values)


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("pereira2018", _without("story"), "no variable 'story'; there are atlas"),
    ("blank2014", _without("data"), "no variable 'data'"),
    ("pereira2018", lambda raw: raw.rename_dims(neuroid="voxel"), "'data' has dimensions .*'voxel'.* wanted"),
    ("pereira2018", lambda raw: raw.transpose("neuroid", "presentation"), "'data' has dimensions .*wanted"),
    ("pereira2018", _with("stimulus_id", _double), "stimulus_id '.*' appears 2 times"),
    ("blank2014", _with("neuroid_id", _double), "neuroid_id '.*' appears 2 times"),
    ("pereira2018", _with("passage_index", lambda v: np.array([f"{k}a" for k in v])), "row 0 is '.*a', not a whole"),
    ("pereira2018", _with("atlas", _all("visual")), "no voxel with atlas 'language'; there are .*visual"),
    ("blank2014", _with("region", _all("md")), "no neuroid with region 'language'"),
    ("pereira2018", _with("data", _one_column(np.nan)), "neuroid '.*' has no value"),
    ("blank2014", _with("data", _one_column(np.inf)), "neuroid '.*' has infinite values"),
    ("blank2014", _with("data", lambda v: v.astype(str)), "`data` has type .*wanted real numbers"),
    ("pereira2018", _with("sentence", lambda v: np.where(np.arange(len(v)) == 2, "", v)), "'.*' has no text"),
])  # fmt: skip
def test_the_error_for_a_damaged_file_names_the_fault(name, damage, message, tmp_path):
    raw = xarray.open_dataset(WRITE[name](tmp_path / "whole.nc"), engine="h5netcdf").load()
    damage(raw).to_netcdf(tmp_path / "damaged.nc", engine="h5netcdf", mode="w")
    with pytest.raises(ValueError, match=message):
        contexts.build(READ[name](tmp_path / "damaged.nc").stimuli, "passage")


def test_the_error_for_a_file_that_is_not_netcdf_names_it(tmp_path):
    (tmp_path / "cut.nc").write_bytes(published.blank(tmp_path / "whole.nc").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.nc cannot be read as netCDF"):
        blank2014.read(tmp_path / "cut.nc")
