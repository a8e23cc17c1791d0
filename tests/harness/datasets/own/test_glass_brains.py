"""Projections of scores through the brain, against maxima of small volumes."""

from __future__ import annotations

import numpy as np
import pytest

from harness.datasets.own import glass_brains
from tests.harness.datasets.own import test_bold as bold
from tests.harness.datasets.own import test_surfaces as surfaces
from tests.harness.datasets.own.test_maps import rows

nibabel = pytest.importorskip("nibabel")

IDS = [f"sub-01.{label}" for label in (1, 2, 7)]  # scores 0.1, 0.2 and 0.3


def inner(view):
    """The values without the margin."""
    return view.values[1:-1, 1:-1]


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_has_the_highest_score_along_its_axis_and_left_is_left(tmp_path, flip):
    affine = np.diag([-3.0 if flip else 3.0, 3, 3, 1])
    folder = tmp_path / "lab"
    bold.lab(folder, subjects=("sub-01",), runs=("a",))
    for path in (folder / "atlas.nii.gz", *folder.glob("sub-01/func/*.nii.gz")):
        image = nibabel.load(path)
        made = nibabel.Nifti1Image(np.asarray(image.dataobj), affine, image.header)
        nibabel.save(made, path)
    (brain,) = glass_brains.brains(f"local:{folder}", rows(IDS))
    sagittal, coronal, axial = brain.views
    volume = np.full(bold.SHAPE, np.nan)
    for label, score in ((1, 0.1), (2, 0.2), (7, 0.3)):
        volume[label == bold.ATLAS] = score
    upright = volume[::-1] if flip else volume  # x to the right
    scored = np.flatnonzero(np.isfinite(upright).any(axis=(1, 2)))
    kept = np.nan_to_num(upright[scored[0] : scored[-1] + 1])
    for view, axis in ((sagittal, 0), (coronal, 1), (axial, 2)):
        np.testing.assert_allclose(np.nan_to_num(inner(view)), kept.max(axis=axis).T[::-1], rtol=1e-6)
    assert [(view.name, view.left, view.right) for view in brain.views] == [
        ("sagittal", "P", "A"), ("coronal", "L", "R"), ("axial", "L", "R")
    ]  # fmt: skip
    assert (np.isfinite(axial.values) <= axial.inside).all()


def test_subjects_of_one_space_are_averaged_and_others_stand_alone(tmp_path):
    folder = bold.lab(tmp_path / "lab", subjects=("sub-01", "sub-02"), runs=("a",))
    scores = rows([*IDS, "sub-02.7"])  # the last has 0.4
    (brain,) = glass_brains.brains(f"local:{folder}", scores)
    assert (brain.subject, brain.model, brain.protocol) == ("mean of 2 subjects", "org/m:untrained", "strict")
    np.testing.assert_allclose(np.nanmax(brain.views[2].values), 0.35, rtol=1e-6)
    other = bold.AFFINE.copy()
    other[0, 3] = 40
    bold.save(folder / "sub-02" / "atlas.nii.gz", bold.ATLAS, affine=other)
    bold.save(folder / f"{bold.stem('sub-02', 'a')}_bold.nii.gz", bold.volumes(bold.noise(3)), affine=other)
    brains = glass_brains.brains(f"local:{folder}", scores)
    assert [brain.subject for brain in brains] == ["sub-01", "sub-02"]
    assert [round(float(np.nanmax(brain.views[0].values)), 3) for brain in brains] == [0.3, 0.4]
    assert glass_brains.brains(f"local:{folder}", rows(IDS))[0].subject == "sub-01"


def test_the_outline_is_the_brain_of_the_first_image(tmp_path):
    """A bright ball in a dark volume with bright specks; the atlas is one voxel."""
    shape, centre = (20, 22, 18), np.array([10, 11, 9])
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
    volume = np.where(distance <= 6, 900.0, 20.0).astype(np.float32)
    volume[1, 1, 1] = 1000
    folder = bold.lab(tmp_path / "lab", subjects=("sub-01",), runs=("a",), atlas=None)
    atlas = np.zeros(shape, dtype=np.int16)
    atlas[10, 11, 9] = 1
    bold.save(folder / "atlas.nii.gz", atlas)
    noise = np.random.default_rng(0).uniform(0, 5, (*shape, bold.N_SCANS)).astype(np.float32)
    bold.save(folder / f"{bold.stem('sub-01', 'a')}_bold.nii.gz", volume[..., None] + noise)
    (brain,) = glass_brains.brains(f"local:{folder}", rows(["sub-01.1"]))
    for view in brain.views:
        assert view.inside.sum() == (np.linalg.norm(np.indices((13, 13)) - 6, axis=0) <= 6).sum()
        assert np.isfinite(view.values).sum() == 1


def test_a_large_volume_is_drawn_with_larger_cells(monkeypatch, tmp_path):
    monkeypatch.setattr(glass_brains, "_MOST_COLUMNS", 6)
    folder = bold.lab(tmp_path / "lab", subjects=("sub-01",), runs=("a",))
    (brain,) = glass_brains.brains(f"local:{folder}", rows(IDS))
    assert sum(view.inside.shape[1] for view in brain.views) <= 6 + 3 * 3
    np.testing.assert_allclose(np.nanmax(brain.views[0].values), 0.3, rtol=1e-6)


@pytest.mark.parametrize("form", ["gifti", "cifti", "parcels"])
def test_surfaces_have_no_coordinates(tmp_path, form):
    folder = surfaces.lab(tmp_path / "lab", form)
    assert glass_brains.brains(f"local:{folder}", rows(bold.load(folder).responses.neuroid_ids)) == []
