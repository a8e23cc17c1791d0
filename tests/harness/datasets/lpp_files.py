"""Writes small files of ds003643's published form: names, numbers of scans, and the table of words; few voxels.

Runs are numbered as in the published files: from another number in each subject. Images are written by nibabel.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from tests.harness.datasets.published import people

SHAPE, AFFINE = (4, 3, 2), np.diag([2.0, 2.0, 2.0, 1.0])
N_SCANS = {
    "EN": (282, 298, 340, 303, 265, 343, 325, 292, 368),
    "FR": (309, 326, 354, 315, 293, 378, 332, 294, 336),
    "CN": (283, 322, 322, 307, 293, 392, 364, 293, 401),
}
FIRST_RUN = {"EN057": 15, "EN058": 5, "CN001": 4, "FR001": 7}
TEXTS = {
    "EN": ("once", "when", "i", "was", "six", "null"),
    "FR": ("l'", "étoile", "nan", "où"),
    "CN": ("小", "王子", "花"),
}
SUBJECTS = {"EN": ("EN057", "EN058"), "FR": ("FR001",), "CN": ("CN001",)}
ATLAS = np.zeros(SHAPE, dtype=np.int16)
ATLAS[0], ATLAS[1] = 1, 2


def image_file(root: Path, subject: str, section: int) -> Path:
    """Path of the image of a section, 1 to 9."""
    run = f"task-lpp{subject[:2]}_run-{FIRST_RUN[subject] + section - 1:02d}"
    folder = root / f"ds003643/derivatives/sub-{subject}/func"
    return folder / f"sub-{subject}_{run}_space-MNIColin27_desc-preproc_bold.nii.gz"


def words_file(root: Path, language: str) -> Path:
    return root / f"ds003643/annotation/{language}/lpp{language}_word_information.csv"


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    if values.ndim == 4:
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((2, 2, 2, 2.0))
    nibabel.save(image, path)


def words(language: str) -> list[tuple[str, str, float, float, int]]:
    """(word, lemma, onset, offset, section) of two words a second; section 2 has a row without a word."""
    rows = []
    for section, n in enumerate(N_SCANS[language], start=1):
        for k in range(2 * n):
            text = TEXTS[language][(k * k + section) % len(TEXTS[language])]
            rows.append(("" if (section, k) == (2, 5) else text, text, 0.1 + k * 0.9, 0.5 + k * 0.9, section))
    return rows


def write_words(path: Path, rows: list, header: str = ",word,lemma,onset,offset,logfreq,section") -> None:
    lines = [f"{k},{w},{lemma},{on:.3f},{off:.3f},5.1,{section}" for k, (w, lemma, on, off, section) in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def write(root: Path, language: str = "EN") -> dict[tuple[str, int], np.ndarray]:
    """Write words, an atlas of two parcels, and all images; returns (subject, section) -> (scan, parcel)."""
    rng = np.random.default_rng(0)
    write_words(words_file(root, language), words(language))
    save(root / "ds003643/atlas.nii.gz", ATLAS)
    (root / "ds003643/atlas.tsv").write_text("index\tname\n1\tIFG\n2\tSTG\n")
    courses = {}
    for section, n in enumerate(N_SCANS[language], start=1):
        shared = people(rng, n, 2 * len(SUBJECTS[language]))
        for s, subject in enumerate(SUBJECTS[language]):
            own = 100 + shared[:, 2 * s : 2 * s + 2] + np.linspace(0, 3, n)[:, np.newaxis]
            values = np.full((*SHAPE, n), 7.0, dtype=np.float32)
            values[0], values[1] = own[:, 0], own[:, 1]
            save(image_file(root, subject, section), values)
            courses[subject, section] = own
    return courses
