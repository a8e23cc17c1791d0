"""Projections of scores through the brain, against maxima of small volumes."""

from __future__ import annotations

import numpy as np
import pytest

from harness.datasets.own import glass_brains, maps, meshes
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
def test_surfaces_without_meshes_have_no_coordinates(tmp_path, form):
    folder = surfaces.lab(tmp_path / "lab", form)
    for side in "LR":
        mesh(folder / f"hemi-{side}_inflated.surf.gii", side)  # is not where the brain is
        mesh(folder / f"hemi-{side}_pial.surf.gii", side, n=surfaces.SIZES[side] + 1)  # of another density
    assert glass_brains.brains(f"local:{folder}", rows(bold.load(folder).responses.neuroid_ids)) == []


def mesh(path, side, n=0, shift=0.0):
    """A mesh whose vertex k lies at (+-30, 4 k + shift, 3 k mod 5), written by nibabel; returns the points."""
    n = n or surfaces.SIZES[side]
    points = np.stack([np.full(n, 30.0), 4.0 * np.arange(n) + shift, 3.0 * np.arange(n) % 5], axis=1)
    points[:, 0] *= -1 if side == "L" else 1
    triangles = np.stack([np.arange(n - 2), np.arange(1, n - 1), np.arange(2, n)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".gii":
        nibabel.freesurfer.write_geometry(path, points, triangles)
        return points
    arrays = [
        nibabel.gifti.GiftiDataArray(points.astype(np.float32), intent="NIFTI_INTENT_POINTSET"),
        nibabel.gifti.GiftiDataArray(triangles.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    return points


FMRIPREP = "sub-01/anat/sub-01_space-fsLR_den-32k_hemi-{}_midthickness.surf.gii"
FREESURFER = "sourcedata/freesurfer/fsaverage5/surf/{}h.pial"


@pytest.mark.parametrize("form", ["gifti", "cifti"])
@pytest.mark.parametrize("name", [FMRIPREP, FREESURFER, "tpl-fsaverage_hemi-{}_den-10k_white.surf.gii"])
def test_surfaces_are_drawn_where_the_vertices_of_their_meshes_lie(tmp_path, form, name, caplog):
    folder = surfaces.lab(tmp_path / "lab", form, subjects=("sub-01",))
    of_side = {}
    for side in "LR":
        of_side[side] = mesh(folder / name.format(side.lower() if name == FREESURFER else side), side)
    ids = bold.load(folder).responses.neuroid_ids
    assert "not known" not in caplog.text
    labels = [name_of.removeprefix("sub-01.") for name_of in ids]
    at = np.array([
        2.0 * np.array([int(k) for k in label[1:].replace("y", " ").replace("z", " ").split()]) if label[0] == "x"
        else of_side[label[0]][int(label[1:])] for label in labels
    ])  # fmt: skip
    scores = [row | {"r": 0.01 * k} for k, row in enumerate(rows(ids))]
    (brain,) = glass_brains.brains(f"local:{folder}", scores)
    coronal = brain.views[1]
    assert (coronal.left, coronal.right) == ("L", "R")
    for side, columns in ((-1, slice(0, 3)), (1, slice(-3, None))):
        highest = max(row["r"] for row, point in zip(scores, at, strict=True) if side * point[0] > 20)
        assert np.nanmax(coronal.values[:, columns]) == pytest.approx(highest)
    assert brain.views[0].inside.shape[1] - 3 == pytest.approx((at[:, 1].max() - at[:, 1].min()) / 5, abs=1)


def test_the_mesh_of_the_subject_and_the_middle_of_the_cortex_come_first(tmp_path):
    folder = surfaces.lab(tmp_path / "lab", "gifti", subjects=("sub-01",))
    for side in "LR":
        mesh(folder / f"hemi-{side}_midthickness.surf.gii", side, shift=100)
        mesh(folder / "sub-01" / "anat" / f"sub-01_hemi-{side}_pial.surf.gii", side, shift=200)
        mesh(folder / "sub-01" / "anat" / f"sub-01_hemi-{side}_midthickness.surf.gii", side, shift=300)
    grid = maps.grids(f"local:{folder}")[0].region.grid
    assert meshes.points(grid, folder, "", "sub-01").coordinates[:, 1].min() == 300
    assert meshes.points(grid, folder, "", "sub-02").coordinates[:, 1].min() == 100


@pytest.mark.parametrize("name", ["hemi-L_pial.surf.gii", "lh.pial"])
def test_a_damaged_mesh_is_named(tmp_path, name):
    folder = surfaces.lab(tmp_path / "lab", "gifti", subjects=("sub-01",))
    path = folder / "sourcedata" / "freesurfer" / "sub-01" / "surf" / name if name == "lh.pial" else folder / name
    mesh(path, "L")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        glass_brains.brains(f"local:{folder}", rows(bold.load(folder).responses.neuroid_ids))
