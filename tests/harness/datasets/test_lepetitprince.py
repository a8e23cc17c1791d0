"""Le Petit Prince from files of the published form."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from harness import datasets
from harness.datasets import lepetitprince
from harness.features import hemodynamics
from harness.records import Features, Layer
from harness.scoring import folds
from harness.text import contexts

nibabel = pytest.importorskip("nibabel")
from tests.harness.datasets import lpp_files  # noqa: E402 - needs nibabel

NAMES = {"EN": "lepetitprince-en", "FR": "lepetitprince-fr", "CN": "lepetitprince-zh"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("lpp")


@pytest.fixture(scope="module")
def courses(root):
    return lpp_files.write(root)


@pytest.fixture(scope="module")
def dataset(root, courses):
    return datasets.load("lepetitprince-en", root, pinned=False)


@pytest.fixture
def copy(root, dataset, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path


def load(root, language="EN"):
    return datasets.load(NAMES[language], root, pinned=False)


def test_runs_in_order_are_the_sections_without_ten_scans_at_both_ends(dataset):
    responses = dataset.responses
    assert responses.values.shape == (sum(lpp_files.N_SCANS["EN"]) - 180, 4)
    assert responses.neuroid_ids == ("sub-EN057.IFG", "sub-EN057.STG", "sub-EN058.IFG", "sub-EN058.STG")
    assert responses.row_blocks == responses.row_groups
    blocks = np.array(responses.row_blocks)
    for section, n in enumerate(lpp_files.N_SCANS["EN"], start=1):
        np.testing.assert_array_equal(responses.times_s[blocks == f"section{section}"], 2.0 * np.arange(10, n - 10))


def test_drift_is_removed_and_a_section_z_scored_before_it_is_cut(dataset, courses):
    """Against least squares on a constant and cosines of periods above 128 s, for the fourth section of EN058."""
    course, n = courses["EN058", 4][:, 1], 303
    orders = np.arange(int(2 * n * 2.0 / 128) + 1)
    basis = np.cos(np.pi * orders * (np.arange(n)[:, np.newaxis] + 0.5) / n)
    rest = course - basis @ np.linalg.lstsq(basis, course, rcond=None)[0]
    rows = np.array(dataset.responses.row_blocks) == "section4"
    np.testing.assert_allclose(dataset.responses.values[rows, 3], (rest / rest.std())[10:-10], atol=1e-4)


def test_words_are_those_of_the_table_and_empty_rows_are_omitted(dataset):
    rows = [row for row in lpp_files.words("EN") if row[0]]
    stimuli = dataset.stimuli
    assert stimuli.texts == tuple(row[0] for row in rows)
    assert "null" in stimuli.texts
    assert stimuli.passages == tuple(f"section{row[4]}" for row in rows)
    np.testing.assert_allclose(stimuli.onsets_s, [row[2] for row in rows], atol=1e-9)
    np.testing.assert_allclose(stimuli.ends_s, [row[3] for row in rows], atol=1e-9)


def test_a_scan_has_the_words_of_two_to_eight_seconds_earlier(dataset):
    """The number of the word as feature, under STRICT, against a count by hand in section 1."""
    numbers = np.array([[float(word.rpartition(".")[2])] for word in dataset.stimuli.ids])
    words = Features({Layer("made", 0): numbers}, dataset.stimuli.ids)
    scans = hemodynamics.at_scans(words, dataset.stimuli, dataset.responses, lepetitprince.STRICT.sampling)
    (values,) = scans.values.values()
    row = scans.row_ids.index("section1.20")  # at 40 s
    ends = np.array([row[3] for row in lpp_files.words("EN") if row[4] == 1])
    wanted = [np.flatnonzero((ends > end - 2) & (ends <= end)).mean() + 1 for end in (38.0, 36.0, 34.0, 32.0)]
    np.testing.assert_allclose(values[row], wanted)


def test_strict_leaves_out_one_section_at_a_time(dataset):
    drawn = folds.of_recording(lepetitprince.STRICT.folds, dataset)
    sections = np.array(dataset.responses.row_groups)
    assert sorted(set(sections[fold.test]).pop() for _, fold in drawn) == [f"section{k}" for k in range(1, 10)]
    assert all(len(set(sections[fold.test])) == 1 and len(set(sections[fold.train])) == 8 for _, fold in drawn)


def test_french_and_chinese_are_data_sets_of_their_own_with_their_language(tmp_path):
    for language, code, separator in (("FR", "fr", " "), ("CN", "zh", "")):
        lpp_files.write(tmp_path / language, language)
        dataset = load(tmp_path / language, language)
        assert (dataset.name, dataset.language) == (NAMES[language], code)
        assert datasets.find(NAMES[language]).language == code
        assert len(dataset.responses.row_ids) == sum(lpp_files.N_SCANS[language]) - 180
        section = [text for text, *_, number in lpp_files.words(language) if text and number == 2]
        assert contexts.build(dataset.stimuli, "passage")[1].text == separator.join(section)
    assert datasets.expand("lepetitprince") == ("lepetitprince-en", "lepetitprince-fr", "lepetitprince-zh")


def test_a_mask_makes_every_voxel_a_neuroid(copy):
    (copy / "ds003643/atlas.nii.gz").unlink()
    lpp_files.save(copy / "ds003643/mask.nii.gz", (lpp_files.ATLAS > 0).astype(np.int16))
    assert load(copy).responses.values.shape[1] == 2 * 12


def test_a_name_without_content_is_a_section_that_the_subject_lacks(copy, dataset):
    path = lpp_files.image_file(copy, "EN058", 3)
    path.unlink()
    path.symlink_to("../../../.git/annex/objects/absent")
    responses = load(copy).responses
    missing = np.isnan(responses.values)
    is_section = np.array(responses.row_blocks) == "section3"
    is_subject = np.array(responses.subjects) == "sub-EN058"
    np.testing.assert_array_equal(missing, is_section[:, np.newaxis] & is_subject)
    np.testing.assert_array_equal(responses.values[~missing], dataset.responses.values[~missing])


def _remove(path):
    path.unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:300])


def _shorter(path):
    lpp_files.save(path, np.ones((*lpp_files.SHAPE, 281), dtype=np.float32))


def _other_grid(path):
    lpp_files.save(path, np.ones((4, 3, 3, 282), dtype=np.float32))


@pytest.mark.parametrize(("change", "message"), [
    (_remove, r"sub-EN057/func has 8 images .*wanted 9: the section of a run is known only by the order"),
    (_cut, r"run-15_space-MNIColin27_desc-preproc_bold\.nii\.gz"),
    (_shorter, r"run-15_.*has 281 scans, but section1 has 282"),
    (_other_grid, r"run-15_.*has 4 x 3 x 3 voxels, atlas\.nii\.gz 4 x 3 x 2"),
])  # fmt: skip
def test_the_error_for_an_image_of_another_form_names_it(copy, change, message):
    change(lpp_files.image_file(copy, "EN057", 1))
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_runs_in_another_order_are_noticed_by_their_lengths(copy):
    first, second = (lpp_files.image_file(copy, "EN057", section) for section in (1, 2))
    first.rename(copy / "aside")
    second.rename(first)
    (copy / "aside").rename(second)
    with pytest.raises(ValueError, match=r"run-15_.*has 298 scans, but section1 has 282"):
        load(copy)


def _column(name, value):
    def change(path):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame.loc[7, name] = value
        frame.to_csv(path, index=False)

    return change


def _without_section(path):
    lpp_files.write_words(path, [row for row in lpp_files.words("EN") if row[4] != 6])


def _without_column(path):
    path.write_text(path.read_text().replace("offset", "end", 1))


def _link_as_text(path):
    path.write_text("../../.git/annex/objects/MQ/zJ/MD5E-s1041287--e157ef21efb92a887656eeba8004e569.csv")


def _latin(path):
    path.write_bytes(path.read_text().replace("once", "étoile").encode("latin-1"))


@pytest.mark.parametrize(("change", "message"), [
    (_column("onset", ""), r"lppEN_word_information\.csv: onset of the word .* is '', wanted a number"),
    (_column("offset", "late"), r"offset of the word .* is 'late', wanted a number"),
    (_without_section, r"lppEN_word_information\.csv has no word of section 6"),
    (_without_column, r"lppEN_word_information\.csv has no column offset"),
    (_link_as_text, r"lppEN_word_information\.csv has no column word, onset, offset, section"),
    (_latin, r"lppEN_word_information\.csv cannot be read as a table"),
    (lambda path: path.write_bytes(b""), r"lppEN_word_information\.csv cannot be read as a table"),
])  # fmt: skip
def test_the_error_for_words_of_another_form_names_the_fault(copy, change, message):
    change(lpp_files.words_file(copy, "EN"))
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_the_error_without_mask_or_atlas_says_what_to_add(copy):
    (copy / "ds003643/atlas.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"neither mask\.nii\.gz \(voxels\) nor atlas\.nii\.gz"):
        load(copy)


def test_the_error_without_images_says_how_to_get_them(copy):
    shutil.rmtree(copy / "ds003643/derivatives")
    with pytest.raises(ValueError, match=r"derivatives has no image sub-ENXXX/func/.*datalad"):
        load(copy)


def test_the_words_are_pinned_by_the_checksums_of_the_published_files(root, dataset):
    with pytest.raises(ValueError, match=r"md5:[0-9a-f]{32}, wanted 1041287 bytes with md5:e157ef21"):
        datasets.load("lepetitprince-en", root)
    for name in NAMES.values():
        (file,) = datasets.find(name).files
        assert len(file.checksum) == len("md5:") + 32
        assert file.url == f"https://s3.amazonaws.com/openneuro.org/{file.path}"
