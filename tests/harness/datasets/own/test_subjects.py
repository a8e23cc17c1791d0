"""local:FOLDER with one file of responses per subject, as a laboratory's scripts leave them."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest

from harness import datasets

N = 40
IDS = [f"s{k}" for k in range(N)]


def sentences(folder):
    folder.mkdir()
    text = [f"The {['dog', 'cat', 'tree', 'boy'][k % 4]} near river {k} was quiet." for k in range(N)]
    table = pd.DataFrame({"stimulus_id": IDS, "text": text, "passage": [f"p{k // 5}" for k in range(N)]})
    table.to_csv(folder / "stimuli.csv", index=False)
    return folder


def matrix(n_neuroids, seed=0, n_rows=N):
    return np.random.default_rng(seed).standard_normal((n_rows, n_neuroids)).astype(np.float32)


def write(path, values, row_ids=IDS):
    """Write a matrix as a laboratory would, without this program's code."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, data=values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = values
    else:
        names = [f"v{k}" for k in range(values.shape[1])]
        frame = pd.DataFrame(values, columns=names).assign(row_id=row_ids)[["row_id", *names]]
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def load(folder):
    return datasets.load(f"local:{folder}", ".").responses


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "npy", "npz", "h5"])
def test_subjects_stand_side_by_side_with_their_own_neuroids(tmp_path, suffix):
    folder = sentences(tmp_path / "lab")
    write(folder / f"responses_sub-01.{suffix}", matrix(3))
    write(folder / f"responses_sub-b2.{suffix}", matrix(2, seed=1))
    responses = load(folder)
    np.testing.assert_allclose(responses.values, np.hstack([matrix(3), matrix(2, seed=1)]), rtol=1e-6)
    assert responses.subjects == ("sub-01",) * 3 + ("sub-b2",) * 2
    names = ("v0", "v1", "v2") if suffix in {"csv", "tsv", "parquet"} else ("1", "2", "3")
    assert responses.neuroid_ids == tuple(
        [f"sub-01.{name}" for name in names] + [f"sub-b2.{name}" for name in names[:2]]
    )


def test_rows_with_ids_are_joined_and_a_subject_may_lack_sentences(tmp_path):
    folder = sentences(tmp_path / "lab")
    write(folder / "responses_sub-01.csv", matrix(2)[::-1], IDS[::-1])
    with h5py.File(folder / "responses_sub-02.h5", "w") as file:
        file["responses"], file["row_id"], file["neuroid_id"] = matrix(2, 1)[10:], IDS[10:], ["left", "right"]
    responses = load(folder)
    np.testing.assert_allclose(responses.values[:, :2], matrix(2), rtol=1e-6)
    np.testing.assert_allclose(responses.values[10:, 2:], matrix(2, 1)[10:])
    assert np.isnan(responses.values[:10, 2:]).all()
    assert responses.neuroid_ids[2:] == ("sub-02.left", "sub-02.right")
    assert "sub-02 has responses in 30 of 40 rows." in datasets.find(f"local:{folder}").notes


def scans(folder, order):
    """Two runs of 40 scans, whose table of scans has another order than time."""
    folder.mkdir()
    words = [(run, k) for run in ("a", "b") for k in range(160)]
    pd.DataFrame({
        "stimulus_id": [f"{run}.w{k}" for run, k in words], "text": [f"word{run}{k}" for run, k in words],
        "passage": [run for run, _ in words], "onset_s": [k / 2 for _, k in words],
        "end_s": [k / 2 + 0.4 for _, k in words],
    }).to_csv(folder / "stimuli.csv", index=False)  # fmt: skip
    acquired = [[(run, k) for run in ("a", "b") for k in range(40)][place] for place in order]
    pd.DataFrame({
        "scan_id": [f"{run}.{k}" for run, k in acquired], "time_s": [2.0 * k for _, k in acquired],
        "block": [run for run, _ in acquired],
    }).to_csv(folder / "scans.csv", index=False)  # fmt: skip
    return folder


def test_a_matrix_has_its_rows_in_the_order_of_the_table_of_scans(tmp_path):
    order = np.random.default_rng(3).permutation(80)
    folder = scans(tmp_path / "lab", order)
    values = matrix(4, n_rows=80)
    np.save(folder / "responses_sub-01.npy", values[order])
    np.testing.assert_array_equal(load(folder).values, values)


def test_a_subject_may_lack_a_whole_block_but_not_a_scan(tmp_path):
    folder = scans(tmp_path / "lab", range(80))
    ids = [f"{run}.{k}" for run in ("a", "b") for k in range(40)]
    write(folder / "responses_sub-01.csv", matrix(2, n_rows=80), ids)
    write(folder / "responses_sub-02.csv", matrix(1, n_rows=40), ids[40:])
    assert np.isnan(load(folder).values[:40, 2]).all()
    assert np.isfinite(load(folder).values[40:, 2]).all()
    write(folder / "responses_sub-02.csv", matrix(1, n_rows=39), ids[41:])
    with pytest.raises(ValueError, match=r"responses_sub-02\.csv: no row for 'b\.0' of scans\.csv"):
        load(folder)


def test_the_table_of_neuroids_names_the_columns_of_each_subject(tmp_path):
    folder = sentences(tmp_path / "lab")
    np.save(folder / "responses_sub-01.npy", matrix(2))
    np.save(folder / "responses_sub-02.npy", matrix(1))
    (folder / "neuroids.csv").write_text("neuroid_id,subject,roi\nx,sub-01,IFG\ny,01,MFG\nz,sub-02,IFG\n")
    responses = load(folder)
    assert responses.neuroid_ids == ("sub-01.x", "sub-01.y", "sub-02.z")
    assert responses.rois == ("IFG", "MFG", "IFG")
    np.save(folder / "responses_sub-02.npy", matrix(3))
    with pytest.raises(ValueError, match="has 3 columns without names, but neuroids has 1 rows of subject 'sub-02'"):
        load(folder)


def test_a_neuroid_of_a_matrix_without_values_is_left_out_with_a_note(tmp_path):
    folder = sentences(tmp_path / "lab")
    values = matrix(3)
    values[:, 1] = np.nan
    np.save(folder / "responses_sub-01.npy", values)
    assert load(folder).neuroid_ids == ("sub-01.1", "sub-01.3")
    assert "responses_sub-01.npy: 1 of 3 neuroids have no values and are left out." in (
        datasets.find(f"local:{folder}").notes
    )


def test_numbers_far_from_zero_are_not_rounded(tmp_path):
    folder = sentences(tmp_path / "lab")
    values = 1e6 + matrix(2).astype(np.float64) * 1e-3
    np.save(folder / "responses_sub-01.npy", values)
    np.testing.assert_array_equal(load(folder).values, values)


@pytest.mark.parametrize(("file", "values", "message"), [
    ("responses_sub-01.npy", matrix(2, n_rows=39), r"has 39 rows x 2 neuroids and no row_id, but stimuli\.csv has 40"),
    ("responses_sub-01.npy", matrix(N, n_rows=3), "seems to be transposed"),
    ("responses_sub-01.npy", np.zeros((2, N, 3)), r"shape \(2, 40, 3\) of float64; wanted \(row, neuroid\)"),
    ("responses_sub-01.npy", np.array([["a"] * 2] * N), "wanted .* real numbers"),
    ("responses_sub-01.npy", np.full((N, 2), np.inf), "has infinite values"),
    ("responses_sub-01.npy", np.full((N, 2), np.nan), "has no values; remove it"),
    ("responses_sub-01.npz", np.array([{}] * N), r"responses_sub-01\.npz cannot be read"),
    ("responses_anna.npy", matrix(2), r"wanted responses_sub-LABEL\.npy.* responses_sub-anna\.npy"),
])  # fmt: skip
def test_what_cannot_be_a_matrix_of_responses_is_refused(tmp_path, file, values, message):
    folder = sentences(tmp_path / "lab")
    write(folder / file, values)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_two_files_of_a_subject_and_two_matrices_of_a_file_are_refused(tmp_path):
    folder = sentences(tmp_path / "lab")
    np.savez(folder / "responses_sub-01.npz", betas=matrix(2), errors=matrix(2))
    with pytest.raises(ValueError, match=r"has betas \(40, 2\), errors \(40, 2\); wanted one"):
        load(folder)
    write(folder / "responses_sub-01.csv", matrix(2))
    with pytest.raises(ValueError, match=r"both responses_sub-01\.csv and responses_sub-01\.npz exist"):
        load(folder)


def test_files_that_are_not_read_are_named(tmp_path):
    folder = sentences(tmp_path / "lab")
    write(folder / "responses.csv", matrix(2))
    write(folder / "responses_sub-02.csv", matrix(2))
    (folder / "audio.wav").write_bytes(b"")
    assert load(folder).values.shape == (N, 2)
    notes = datasets.find(f"local:{folder}").notes
    assert "responses_sub-02.csv is ignored, since a table `responses` has all responses; remove one of them." in notes
    assert "audio.wav is ignored: its name is not known." in notes
