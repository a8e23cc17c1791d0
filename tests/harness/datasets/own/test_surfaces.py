"""local:FOLDER with GIfTI and CIFTI images, as fMRIPrep writes them. Files are written by nibabel, not by our code."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import datasets
from harness.datasets.own import maps
from tests.harness.datasets.own import test_bold as bold
from tests.harness.datasets.own.test_maps import rows

nibabel = pytest.importorskip("nibabel")
from nibabel import cifti2, gifti  # noqa: E402

N_LEFT, N_RIGHT = 12, 10
WALL = {"L": [3, 4], "R": [0]}  # vertices of the medial wall, 0 in every volume
SIZES = {"L": N_LEFT, "R": N_RIGHT}
PRIMARY = {"L": "CortexLeft", "R": "CortexRight"}
VOLUME, AFFINE = (4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0])
VOXELS = np.array([[1, 1, 1], [2, 1, 1], [2, 3, 1]])


def courses_of(side, seed=0):
    """(scan, vertex) courses, 0 in the medial wall."""
    values = bold.noise(seed + (side == "R"), SIZES[side])
    values[:, WALL[side]] = 0
    return values


def save_gifti(path, values, tr_s=bold.TR, side="L"):
    """As FreeSurfer's mri_vol2surf writes a time series, with the structure that fMRIPrep adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [
        gifti.GiftiDataArray(
            volume.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES", datatype="NIFTI_TYPE_FLOAT32",
            meta=gifti.GiftiMetaData({"TimeStep": f"{1000 * tr_s:f}"} if tr_s else {}),
        )
        for volume in values
    ]  # fmt: skip
    about = gifti.GiftiMetaData({"AnatomicalStructurePrimary": PRIMARY[side]})
    nibabel.save(gifti.GiftiImage(meta=about, darrays=arrays), path)


def save_labels(path, keys, names=None, side="L", intent="NIFTI_INTENT_LABEL"):
    """A label or shape file of one hemisphere."""
    table = gifti.GiftiLabelTable()
    for key, name in (names or {}).items():
        label = gifti.GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = gifti.GiftiDataArray(np.asarray(keys, dtype=np.int32 if "LABEL" in intent else np.float32), intent=intent)
    about = gifti.GiftiMetaData({"AnatomicalStructurePrimary": PRIMARY[side]})
    nibabel.save(gifti.GiftiImage(meta=about, darrays=[array], labeltable=table), path)


def brain_models(*, has_wall=False, has_voxels=True):
    """Both hemispheres, by default without the medial wall, and a thalamus."""
    models = None
    for side, n in SIZES.items():
        vertices = np.setdiff1d(np.arange(n), [] if has_wall else WALL[side])
        model = cifti2.BrainModelAxis.from_surface(vertices, n, PRIMARY[side])
        models = model if models is None else models + model
    thalamus = cifti2.BrainModelAxis("CIFTI_STRUCTURE_THALAMUS_LEFT", voxel=VOXELS, affine=AFFINE, volume_shape=VOLUME)
    return models + thalamus if has_voxels else models


def save_cifti(path, axis, values, intent, first=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    series = first or cifti2.SeriesAxis(0, bold.TR, len(values))
    image = cifti2.Cifti2Image(values.astype(np.float32), (series, axis))
    image.nifti_header.set_intent(intent)
    nibabel.save(image, path)


def save_dlabel(path, keys, names, axis):
    label = cifti2.LabelAxis(["parcels"], [{key: (name, (1, 0, 0, 1)) for key, name in names.items()}])
    save_cifti(path, axis, np.asarray(keys)[None], "ConnDenseLabel", label)


def grayordinates(seed=0):
    """(scan, place) courses of the brain models without the medial wall."""
    cortex = [np.delete(courses_of(side, seed), WALL[side], axis=1) for side in SIZES]
    return np.hstack([*cortex, bold.noise(seed + 2, len(VOXELS))])


def lab(folder, form="gifti", settings=bold.RAW, subjects=("sub-01",), runs=("a",)):
    """Subjects who heard the same runs, in one form of images."""
    for s, subject in enumerate(subjects):
        for r, run in enumerate(runs):
            stem, seed = bold.stem(subject, run), 10 * s + 3 * r
            if form == "gifti":
                for side in SIZES:
                    name = f"{stem}_hemi-{side}_space-fsaverage5_bold.func.gii"
                    save_gifti(folder / name, courses_of(side, seed), side=side)
            elif form == "cifti":
                name = f"{stem}_space-fsLR_den-91k_bold.dtseries.nii"
                save_cifti(folder / name, brain_models(), grayordinates(seed), "ConnDenseSeries")
            else:
                save_cifti(
                    folder / f"{stem}_space-fsLR_bold.ptseries.nii", PARCELS, bold.noise(seed), "ConnParcelSries"
                )
            bold.words_of(run).to_csv(folder / f"{stem}_events.tsv", sep="\t", index=False)
    (folder / "dataset.json").write_text(json.dumps(settings))
    return folder


PARCELS = cifti2.ParcelsAxis.from_brain_models([
    ("L_V1", brain_models()[:4]), ("R_V1", brain_models()[12:15]), ("thalamus", brain_models()[-3:]),
])  # fmt: skip
LEFT_KEYS = [1, 1, 1, 0, 0, 2, 2, 2, 2, 9, 9, -1]
RIGHT_KEYS = [0, 1, 1, 3, 3, 3, 3, 3, 3, 3]
LEFT_NAMES = {0: "???", 1: "bankssts", 2: "LH_IFG", 9: "Medial_Wall"}
RIGHT_NAMES = {0: "???", 1: "bankssts", 3: "RH_IFG"}


def save_atlas(folder):
    save_labels(folder / "hemi-L_atlas.label.gii", LEFT_KEYS, LEFT_NAMES)
    save_labels(folder / "hemi-R_atlas.label.gii", RIGHT_KEYS, RIGHT_NAMES, side="R")


def means(values, keys, *wanted):
    return np.stack([values[:, np.array(keys) == key].mean(axis=1) for key in wanted], axis=1)


# --- GIfTI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [bold.RAW, {}])
def test_vertices_with_a_signal_are_neuroids(tmp_path, settings):
    folder = lab(tmp_path / "lab", settings=settings)
    dataset = bold.load(folder)
    expected = [f"sub-01.{side}{k}" for side, n in SIZES.items() for k in range(n) if k not in WALL[side]]
    assert list(dataset.responses.neuroid_ids) == expected
    if settings:
        np.testing.assert_allclose(dataset.responses.values, grayordinates()[:, :-3], atol=1e-6)
    np.testing.assert_allclose(dataset.responses.times_s, np.arange(bold.N_SCANS) * bold.TR)
    assert dataset.stimuli.texts == tuple(bold.words_of("a").word)
    assert "sub-01: 3 of 22 vertices have no signal and are left out." in datasets.find(f"local:{folder}").notes


def test_a_medial_wall_of_nan_is_left_out_too(tmp_path):
    folder = lab(tmp_path / "lab")
    values = courses_of("L")
    values[:, WALL["L"]] = np.nan
    save_gifti(folder / f"{bold.stem('sub-01', 'a')}_hemi-L_space-fsaverage5_bold.func.gii", values)
    np.testing.assert_allclose(bold.load(folder).responses.values, grayordinates()[:, :-3], atol=1e-6)


def test_gifti_is_read_a_few_volumes_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.datasets.own.images._BYTES_AT_ONCE", 3 * 22 * 8)
    monkeypatch.setattr("harness.datasets.own.gifti._CHUNK_BYTES", 300)
    np.testing.assert_allclose(bold.load(lab(tmp_path / "lab")).responses.values, grayordinates()[:, :-3], atol=1e-6)


def test_the_tr_is_that_of_the_sidecar_or_else_of_the_time_step_in_ms(tmp_path):
    folder = lab(tmp_path / "lab")
    stem = folder / bold.stem("sub-01", "a")
    stem.with_name(f"{stem.name}_hemi-L_space-fsaverage5_bold.json").write_text('{"RepetitionTime": 2, "StartTime": 1}')
    np.testing.assert_allclose(bold.load(folder).responses.times_s[:3], [1, 3, 5])
    for side in SIZES:
        save_gifti(stem.with_name(f"{stem.name}_hemi-{side}_space-fsaverage5_bold.func.gii"), courses_of(side), 0, side)
    np.testing.assert_allclose(bold.load(folder).responses.times_s[:3], [1, 3, 5])
    stem.with_name(f"{stem.name}_hemi-L_space-fsaverage5_bold.json").unlink()
    with pytest.raises(ValueError, match=r"the TR is 0 s; write RepetitionTime.*hemi-L_space-fsaverage5_bold\.json"):
        bold.load(folder)


@pytest.mark.parametrize("name", ["space-fsaverage6_hemi-{}", "space-fsaverage6_hemi-{}_desc-clean"])
def test_names_of_earlier_versions_and_of_afni_are_read(tmp_path, name):
    folder = lab(tmp_path / "lab")
    stem = folder / bold.stem("sub-01", "a")
    for side in SIZES:
        new = stem.with_name(f"{stem.name}_{name.format(side)}.func.gii")
        stem.with_name(f"{stem.name}_hemi-{side}_space-fsaverage5_bold.func.gii").rename(new)
    assert len(bold.load(folder).responses.neuroid_ids) == 19


@pytest.mark.parametrize("name", ["lh.aparc.label.gii", "fs_LR.L.label.gii", "left.label.gii"])
def test_a_hemisphere_is_known_by_its_name_or_metadata_and_arrays_may_be_columns(tmp_path, name):
    folder = lab(tmp_path / "lab")
    save_labels(folder / name, np.array(LEFT_KEYS)[:, None], LEFT_NAMES)
    if not name.startswith("left"):
        image = nibabel.load(folder / name)
        del image.meta["AnatomicalStructurePrimary"]
        nibabel.save(image, folder / name)
    assert bold.load(folder).responses.neuroid_ids == ("sub-01.bankssts", "sub-01.LH_IFG")


def test_one_hemisphere_is_enough(tmp_path):
    folder = lab(tmp_path / "lab")
    (folder / f"{bold.stem('sub-01', 'a')}_hemi-L_space-fsaverage5_bold.func.gii").unlink()
    save_atlas(folder)
    assert bold.load(folder).responses.neuroid_ids == ("sub-01.bankssts", "sub-01.RH_IFG")


def test_parcels_of_label_files_are_named_by_their_tables(tmp_path):
    folder = lab(tmp_path / "lab", subjects=("sub-01", "sub-02"))
    save_atlas(folder)
    responses = bold.load(folder).responses
    names = ("L_bankssts", "LH_IFG", "R_bankssts", "RH_IFG")
    assert responses.neuroid_ids == tuple(f"{s}.{name}" for s in ("sub-01", "sub-02") for name in names)
    for place, seed in ((0, 0), (4, 10)):
        left, right = courses_of("L", seed), courses_of("R", seed)
        expected = np.hstack([means(left, LEFT_KEYS, 1, 2), means(right, RIGHT_KEYS, 1, 3)])
        np.testing.assert_allclose(responses.values[:, place : place + 4], expected, atol=1e-6)
    (folder / "atlas.tsv").write_text("index\tname\troi\n1\tSTS\ttemporal\n2\tIFG\tfrontal\n3\tMFG\tfrontal\n")
    responses = bold.load(folder).responses
    assert responses.neuroid_ids[:4] == ("sub-01.L_STS", "sub-01.IFG", "sub-01.R_STS", "sub-01.MFG")
    assert responses.rois[:4] == ("temporal", "frontal", "temporal", "frontal")


@pytest.mark.parametrize(("name", "intent"), [
    ("hemi-{}_mask.shape.gii", "NIFTI_INTENT_SHAPE"), ("hemi-{}_desc-cortex_mask.label.gii", "NIFTI_INTENT_LABEL"),
])  # fmt: skip
def test_a_mask_chooses_vertices_and_cuts_parcels(tmp_path, name, intent):
    folder = lab(tmp_path / "lab")
    kept = {"L": np.arange(N_LEFT) < 7, "R": np.arange(N_RIGHT) == 5}
    for side, mask in kept.items():
        save_labels(folder / name.format(side), mask, side=side, intent=intent)
    assert bold.load(folder).responses.neuroid_ids == tuple(f"sub-01.{k}" for k in ("L0", "L1", "L2", "L5", "L6", "R5"))
    save_atlas(folder)
    responses = bold.load(folder).responses
    assert responses.neuroid_ids == ("sub-01.bankssts", "sub-01.LH_IFG", "sub-01.RH_IFG")
    assert not any("ignored" in note for note in datasets.find(f"local:{folder}").notes)
    cut = np.where(kept["L"], LEFT_KEYS, 0)
    np.testing.assert_allclose(responses.values[:, :2], means(courses_of("L"), cut, 1, 2), atol=1e-6)


def test_a_subject_may_have_another_mesh_and_atlas(tmp_path):
    folder = lab(tmp_path / "lab", subjects=("sub-01", "sub-02"))
    save_atlas(folder)
    stem = folder / bold.stem("sub-02", "a")
    for side in SIZES:
        save_gifti(
            stem.with_name(f"{stem.name}_hemi-{side}_space-fsaverage5_bold.func.gii"), bold.noise(5, 30), side=side
        )
        save_labels(folder / "sub-02" / f"hemi-{side}_atlas.label.gii", np.arange(30) % 2, {1: "odd"}, side=side)
    assert bold.load(folder).responses.neuroid_ids[4:] == ("sub-02.L_odd", "sub-02.R_odd")


# --- CIFTI ------------------------------------------------------------------------------------------------------------


def test_vertices_and_subcortical_voxels_of_cifti_are_neuroids(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.datasets.own.images._BYTES_AT_ONCE", 3 * 22 * 8)
    responses = bold.load(lab(tmp_path / "lab", "cifti")).responses
    np.testing.assert_allclose(responses.values, grayordinates(), atol=1e-6)
    cortex = [f"sub-01.{side}{k}" for side, n in SIZES.items() for k in range(n) if k not in WALL[side]]
    assert list(responses.neuroid_ids) == [*cortex, *(f"sub-01.x{x}y{y}z{z}" for x, y, z in VOXELS)]
    np.testing.assert_allclose(responses.times_s, np.arange(bold.N_SCANS) * bold.TR)


@pytest.mark.parametrize("sidecar", ["_bold.json", "_bold.dtseries.json"])
def test_the_sidecar_of_cifti_counts(tmp_path, sidecar):
    folder = lab(tmp_path / "lab", "cifti")
    (folder / f"{bold.stem('sub-01', 'a')}_space-fsLR_den-91k{sidecar}").write_text('{"RepetitionTime": 1.9}')
    np.testing.assert_allclose(bold.load(folder).responses.times_s[:3], [0, 1.9, 3.8])
    assert any("the header has a TR of 2 s" in note for note in datasets.find(f"local:{folder}").notes)


def test_an_atlas_of_all_vertices_fits_images_without_the_medial_wall(tmp_path):
    folder = lab(tmp_path / "lab", "cifti")
    keys = [*LEFT_KEYS, *RIGHT_KEYS]  # the parcel 1 is in both hemispheres
    names = {0: "???", 1: "both", 2: "LH_IFG", 3: "RH_IFG", 9: "Medial_Wall"}
    save_dlabel(folder / "Schaefer2018.dlabel.nii", keys, names, brain_models(has_wall=True, has_voxels=False))
    responses = bold.load(folder).responses
    assert responses.neuroid_ids == ("sub-01.both", "sub-01.LH_IFG", "sub-01.RH_IFG")
    every = np.hstack([courses_of("L"), courses_of("R")])
    np.testing.assert_allclose(responses.values, means(every, keys, 1, 2, 3), atol=1e-6)
    (folder / "Schaefer2018.dlabel.nii").unlink()
    save_atlas(folder)
    assert bold.load(folder).responses.neuroid_ids[0] == "sub-01.L_bankssts"


def test_labels_and_masks_of_cifti_may_have_voxels(tmp_path):
    folder = lab(tmp_path / "lab", "cifti")
    keys = np.zeros(len(brain_models()))
    keys[-2:] = 4
    save_dlabel(folder / "atlas.dlabel.nii", keys, {0: "???", 4: "THALAMUS"}, brain_models())
    responses = bold.load(folder).responses
    assert responses.neuroid_ids == ("sub-01.THALAMUS",)
    np.testing.assert_allclose(responses.values[:, 0], grayordinates()[:, -2:].mean(axis=1), atol=1e-6)
    (folder / "atlas.dlabel.nii").unlink()
    scalar = cifti2.ScalarAxis(["mask"])
    save_cifti(folder / "mask.dscalar.nii", brain_models(), keys[None], "ConnDenseScalar", scalar)
    assert bold.load(folder).responses.neuroid_ids == ("sub-01.x2y1z1", "sub-01.x2y3z1")


def test_parcels_of_a_parcellated_file_are_neuroids(tmp_path):
    responses = bold.load(lab(tmp_path / "lab", "parcels")).responses
    assert responses.neuroid_ids == ("sub-01.L_V1", "sub-01.R_V1", "sub-01.thalamus")
    np.testing.assert_allclose(responses.values, bold.noise(0), atol=1e-6)


def test_a_space_is_chosen_among_those_of_fmriprep_and_events_are_raw(tmp_path):
    root, made = tmp_path / "lab", tmp_path / "lab" / "derivatives" / "fmriprep"
    for form in ("gifti", "cifti"):
        lab(made, form)
    (made / "dataset.json").unlink()
    stem = bold.stem("sub-01", "a")
    bold.save(made / f"{stem}_space-MNI_desc-preproc_bold.nii.gz", bold.volumes(bold.noise(0)))
    (root / "sub-01" / "func").mkdir(parents=True)
    (made / f"{stem}_events.tsv").rename(root / f"{stem}_events.tsv")
    confounds = "csf\n" + "".join(f"{k % 7}\n" for k in range(bold.N_SCANS))
    (made / f"{stem}_desc-confounds_timeseries.tsv").write_text(confounds)
    for space, n in (("fsaverage5", 19), ("fsLR_den-91k", 22), ("fsLR", 22)):
        settings = {"bold": {"derivatives": "derivatives/fmriprep", "space": space, "confounds": ["csf"]}}
        (root / "dataset.json").write_text(json.dumps(settings))
        assert len(bold.load(root).responses.neuroid_ids) == n
    (root / "dataset.json").write_text(json.dumps({"bold": {"derivatives": "derivatives/fmriprep"}}))
    with pytest.raises(ValueError, match=r"sub-01 has 3 files of .*choose by \"space\""):
        bold.load(root)


def test_all_forms_of_the_same_courses_give_the_same_responses(tmp_path):
    courses = bold.noise(0)
    nifti = bold.lab(tmp_path / "nifti" / "lab", {("sub-01", "a"): courses}, {}, subjects=("sub-01",), runs=("a",))
    expected = bold.load(nifti).responses.values
    surface = lab(tmp_path / "gifti" / "lab", settings={})
    keys = {side: np.arange(n) % 3 + 1 for side, n in SIZES.items()}
    for side in SIZES:
        name = f"{bold.stem('sub-01', 'a')}_hemi-{side}_space-fsaverage5_bold.func.gii"
        save_gifti(surface / name, courses[:, keys[side] - 1], side=side)
        save_labels(surface / f"hemi-{side}_atlas.label.gii", keys[side], side=side)
    values = bold.load(surface).responses.values
    np.testing.assert_allclose(values, np.hstack([expected, expected]), atol=1e-5)
    parcels = bold.load(lab(tmp_path / "parcels" / "lab", "parcels", {})).responses.values
    np.testing.assert_allclose(parcels, expected, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------

LEFT = f"{bold.stem('sub-01', 'a')}_hemi-L_space-fsaverage5_bold.func.gii"
RIGHT = LEFT.replace("hemi-L", "hemi-R")


def cut(name, n_bytes):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n_bytes])


def renamed(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def labels(keys, name="hemi-L_atlas.label.gii", **options):
    return lambda folder: save_labels(folder / name, keys, **options)


@pytest.mark.parametrize(("damage", "message"), [
    (cut(LEFT, -2000), r"hemi-L.*is damaged after volume \d+"),
    (cut(LEFT, 100), "hemi-L.*is damaged after volume 0"),
    (lambda folder: save_gifti(folder / RIGHT, courses_of("R")[:-1], side="R"), "have 80 and 79 volumes"),
    (lambda folder: save_gifti(folder / LEFT, np.stack([courses_of("L")] * 2, axis=2)), "wanted .vertex,., one a"),
    (lambda folder: save_gifti(folder / LEFT, [*courses_of("L")[:-1], np.ones(5)]), "volume 80 has 15 vertices"),
    (renamed(LEFT, LEFT.replace("hemi-L_", "hemi-left_")), "write hemi-L or hemi-R in it"),
    (labels([1] * 40), "hemi-L_atlas.label.gii has 40 vertices in CIFTI_STRUCTURE_CORTEX_LEFT, .* 12"),
    (labels([0] * N_LEFT), "hemi-L_atlas.label.gii has no parcel"),
    (labels([0] * N_LEFT, "hemi-L_mask.shape.gii"), "hemi-L_mask.shape.gii has no value but 0"),
    (labels([0.5] * N_LEFT, intent="NIFTI_INTENT_SHAPE"), "wanted whole numbers"),
    (labels(LEFT_KEYS, names=dict.fromkeys((1, 2, 9), "same")), "the name 'L_same' appears more than once"),
    (lambda folder: [save_labels(folder / f"hemi-L_{k}.label.gii", LEFT_KEYS) for k in "ab"],
     "hemi-L_a.label.gii and hemi-L_b.label.gii are of the same hemisphere"),
    (lambda folder: (folder / "hemi-L_atlas.label.gii").write_text("x"), "cannot be read as GIfTI"),
    (lambda folder: [save_dlabel(folder / f"{k}.dlabel.nii", [1, *[0] * 21], {1: "a"},
                                 brain_models(has_wall=True, has_voxels=False)) for k in "ab"], "several files of the"),
])  # fmt: skip
def test_what_looks_wrong_in_gifti_is_refused(tmp_path, damage, message):
    folder = lab(tmp_path / "lab")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        bold.load(folder)


DENSE = f"{bold.stem('sub-01', 'a')}_space-fsLR_den-91k_bold.dtseries.nii"


def shifted(axis):
    axis.affine = AFFINE + np.diag([0, 1.0, 0, 0])
    return axis


@pytest.mark.parametrize(("damage", "message"), [
    (cut(DENSE, -1000), "ends before its last scan, 80"),
    (cut(DENSE, 1000), "cannot be read as CIFTI-2"),
    (lambda folder: bold.save(folder / DENSE, bold.volumes(bold.noise(0))), "is no CIFTI-2 file"),
    (lambda folder: save_cifti(folder / DENSE, brain_models(), grayordinates(), "ConnDenseScalar",
                               cifti2.ScalarAxis([str(k) for k in range(80)])), "is no time series"),
    (lambda folder: save_dlabel(folder / "a.dlabel.nii", np.ones(22), {1: "a"}, shifted(brain_models())),
     "another affine of voxels"),
    (lambda folder: save_dlabel(folder / "a.dlabel.nii", [0] * 19 + [1] * 3, {1: "a"},
                                shifted(brain_models())), "another affine of voxels"),
    (lambda folder: save_dlabel(folder / "a.dlabel.nii", np.zeros(22), {0: "???"}, brain_models()), "has no parcel"),
    (lambda folder: save_dlabel(folder / "a.dlabel.nii", [1, 1], {1: "a"},
                                cifti2.BrainModelAxis.from_surface(WALL["L"], N_LEFT, "CortexLeft")),
     "has no vertex or voxel of"),
])  # fmt: skip
def test_what_looks_wrong_in_cifti_is_refused(tmp_path, damage, message):
    folder = lab(tmp_path / "lab", "cifti")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        bold.load(folder)


def test_runs_of_a_subject_have_one_grid(tmp_path):
    folder = lab(tmp_path / "lab", "cifti", runs=("a", "b"))
    other = f"{bold.stem('sub-01', 'b')}_space-fsLR_den-91k_bold.dtseries.nii"
    save_cifti(folder / other, brain_models()[:-1], grayordinates()[:, :-1], "ConnDenseSeries")
    with pytest.raises(ValueError, match=r"task-b.*has other vertices or voxels than sub-01_task-a.*one space"):
        bold.load(folder)
    (folder / other).unlink()
    bold.save(folder / f"{bold.stem('sub-01', 'b')}_bold.nii.gz", bold.volumes(bold.noise(0)))
    with pytest.raises(ValueError, match="differ in format"):
        bold.load(folder)


def test_parcels_take_no_atlas_and_masks_of_other_formats_are_named(tmp_path):
    folder = lab(tmp_path / "lab", "parcels")
    bold.save(folder / "atlas.nii.gz", bold.ATLAS)
    (note,) = [note for note in datasets.find(f"local:{folder}").notes if "atlas.nii.gz" in note]
    assert note.startswith("atlas.nii.gz: ignored; a mask or atlas of these images is called *_mask.shape.gii")
    save_atlas(folder)
    with pytest.raises(ValueError, match=r"has parcels already; remove hemi-L_atlas\.label\.gii"):
        bold.load(folder)


# --- maps -------------------------------------------------------------------------------------------------------------


def test_maps_of_gifti_are_metric_files_of_each_hemisphere(tmp_path):
    folder = lab(tmp_path / "lab")
    save_atlas(folder)
    ids = bold.load(folder).responses.neuroid_ids
    written = maps.write(f"local:{folder}", rows(ids), tmp_path / "maps", ["r"])
    assert [path.name for path in written] == [f"sub-01_hemi-{side}_stat-r_statmap.func.gii" for side in SIZES]
    for path, side, keys, values in zip(
        written, SIZES, (LEFT_KEYS, RIGHT_KEYS), ({1: 0.1, 2: 0.2}, {1: 0.3, 3: 0.4}), strict=True
    ):
        image = nibabel.load(path)
        assert image.meta["AnatomicalStructurePrimary"] == PRIMARY[side]
        (array,) = image.darrays
        assert (array.data.dtype, array.intent) == (np.float32, nibabel.nifti1.intent_codes["NIFTI_INTENT_NONE"])
        assert array.meta["Name"] == "org/m:untrained, strict: held-out score"
        np.testing.assert_allclose(array.data, [values.get(key, np.nan) for key in keys], rtol=1e-6)
    about = json.loads(written[0].with_name("sub-01_stat-r_statmap.json").read_text())
    assert (about["space"], about["n_neuroids"]) == ("fsaverage5", 4)


def test_maps_of_cifti_have_the_brain_models_of_the_images(tmp_path):
    folder = lab(tmp_path / "lab", "cifti")
    ids = list(bold.load(folder).responses.neuroid_ids)
    (path,) = maps.write(f"local:{folder}", rows(ids[1:]), tmp_path / "maps", ["r"])
    image = nibabel.load(path)
    assert path.name == "sub-01_stat-r_statmap.dscalar.nii"
    assert image.nifti_header.get_intent()[0] == "ConnDenseScalar"
    scalar, axis = (image.header.get_axis(k) for k in range(2))
    assert axis == brain_models()
    assert list(scalar.name) == ["org/m:untrained, strict: held-out score"]
    np.testing.assert_allclose(image.get_fdata()[0], [np.nan, *np.arange(1, len(ids)) / 10], rtol=1e-6)
    keys = [*LEFT_KEYS, *RIGHT_KEYS]
    save_dlabel(folder / "a.dlabel.nii", keys, {0: "???"}, brain_models(has_wall=True, has_voxels=False))
    (path,) = maps.write(f"local:{folder}", rows(["sub-01.1", "sub-01.3"]), tmp_path / "maps", ["r"])
    inside = [key for side, keys in (("L", LEFT_KEYS), ("R", RIGHT_KEYS)) for key in np.delete(keys, WALL[side])]
    expected = [{1: 0.1, 3: 0.2}.get(key, np.nan) for key in [*inside, 0, 0, 0]]
    np.testing.assert_allclose(nibabel.load(path).get_fdata()[0], expected, rtol=1e-6)


def test_maps_of_parcels_have_the_parcels_of_the_images(tmp_path):
    folder = lab(tmp_path / "lab", "parcels", subjects=("sub-01", "sub-02"))
    ids = bold.load(folder).responses.neuroid_ids
    written = maps.write(f"local:{folder}", rows(ids), tmp_path / "maps", ["r"], max_q=0.05)
    assert [path.name for path in written[:2]] == [
        "sub-01_stat-r_statmap.pscalar.nii", "sub-01_desc-q0p05_stat-r_statmap.pscalar.nii"
    ]  # fmt: skip
    image = nibabel.load(written[2])
    assert image.nifti_header.get_intent()[0] == "ConnParcelScalr"
    assert image.header.get_axis(1) == PARCELS
    np.testing.assert_allclose(image.get_fdata(), [[0.4, 0.5, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("key", ["seg", "atlas"])
def test_means_of_parcels_by_xcp_d_are_read_if_they_are_alone_or_asked_for(tmp_path, key):
    folder = lab(tmp_path / "lab", "cifti")
    stem = bold.stem("sub-01", "a")
    dense = folder / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii"
    for atlas, seed in (("Gordon", 5), ("Tian", 6)):
        name = f"{stem}_space-fsLR_{key}-{atlas}_den-91k_stat-mean_timeseries.ptseries.nii"
        save_cifti(folder / name, PARCELS, bold.noise(seed), "ConnParcelSries")
    assert bold.load(folder).responses.values.shape[1] == 22
    for space, n, seed in (("fsLR_den-91k", 22, 0), (f"fsLR_{key}-Gordon", 3, 5), (f"fsLR_{key}-Tian", 3, 6)):
        (folder / "dataset.json").write_text(json.dumps({"bold": {**bold.RAW["bold"], "space": space}}))
        values = bold.load(folder).responses.values
        assert values.shape[1] == n
        if n == 3:
            np.testing.assert_allclose(values, bold.noise(seed), rtol=1e-5)
    dense.unlink()
    (folder / "dataset.json").write_text(json.dumps(bold.RAW))
    with pytest.raises(ValueError, match=r"sub-01 has 2 files of .*timeseries"):
        bold.load(folder)
    next(folder.glob(f"sub-01/func/*{key}-Tian*")).unlink()
    assert bold.load(folder).responses.values.shape[1] == 3
