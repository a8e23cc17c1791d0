"""Maps of neuroid scores: read back by nibabel alone, against the voxels of the mask or atlas."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import datasets, evaluate
from harness.cli.commands import main
from harness.datasets.own import maps
from harness.models import tiny
from harness.report import page
from harness.storage import tables
from tests.harness.datasets.own import test_bold as bold

nibabel = pytest.importorskip("nibabel")


def rows(neuroids, model="org/m:untrained", **columns):
    """Rows of neuroid_scores at the chosen layer."""
    common = {
        "run": "r-1", "model": model, "kind": "model", "dataset": "local-lab", "protocol": "strict", "stack": "decoder",
        "layer": 2, "metric": "pearson_r", "code_version": "1", "chosen": True,
    }  # fmt: skip
    return [
        {**common, "neuroid_id": name, "r": k / 10, "q": k / 100, **columns} for k, name in enumerate(neuroids, start=1)
    ]


@pytest.fixture
def lab(tmp_path):
    return bold.lab(tmp_path / "lab", runs=("a",))


def test_every_voxel_of_a_parcel_has_its_score_and_other_voxels_none(lab, tmp_path):
    ids = datasets.load(f"local:{lab}", ".").responses.neuroid_ids
    written = maps.write(f"local:{lab}", rows(ids), tmp_path / "maps", max_q=0.025)
    names = [
        f"{s}_{stat}_statmap.nii.gz"
        for s in ("sub-01", "sub-02")
        for stat in ("stat-r", "stat-q", "desc-q0p025_stat-r")
    ]
    assert [path.name for path in written] == names
    assert {path.parent.relative_to(tmp_path).as_posix() for path in written} == {"maps/org%2Fm:untrained/strict"}
    for path, values in zip(written, [(0.1, 0.2, 0.3), (0.01, 0.02, 0.03), (0.1, 0.2, 0.0)], strict=False):
        image = nibabel.load(path)
        expected = np.full(bold.SHAPE, np.nan)
        for label, value in zip((1, 2, 7), values, strict=True):
            expected[label == bold.ATLAS] = value
        np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-6)
        np.testing.assert_allclose(image.affine, bold.AFFINE)
    about = json.loads(written[2].with_name(written[2].name.replace(".nii.gz", ".json")).read_text())
    assert about["Description"] == "held-out score where q < 0.025, else 0"
    assert (about["model"], about["layers"], about["n_neuroids"]) == ("org/m:untrained", ["decoder 2"], 3)


def test_a_mask_gives_a_value_per_voxel_and_the_space_of_the_mask_is_kept(lab, tmp_path):
    (lab / "atlas.nii.gz").unlink()
    mask = np.zeros(bold.SHAPE, dtype=np.uint8)
    mask[0, :2, 0] = mask[3, 1, 2] = 1
    image = nibabel.Nifti1Image(mask, bold.AFFINE)
    image.set_sform(bold.AFFINE, 4)  # MNI152
    nibabel.save(image, lab / "mask.nii.gz")
    ids = ["sub-01.x3y1z2", "sub-01.x0y1z0"]  # in another order than the voxels; one voxel has no score
    (path, *_) = maps.write(f"local:{lab}", rows(ids), tmp_path, ["r"])
    values = nibabel.load(path).get_fdata()
    assert np.isfinite(values).sum() == 2
    np.testing.assert_allclose([values[3, 1, 2], values[0, 1, 0]], [0.1, 0.2], rtol=1e-6)
    assert int(nibabel.load(path).header["sform_code"]) == 4


@pytest.mark.parametrize(("neuroids", "options", "message"), [
    (["sub-01.9"], {}, "sub-01.9 of org/m:untrained is not in"),
    ([], {}, "no scores of neuroids"),
    (["sub-01.1"], {"statistics": ["rr"]}, "statistic 'rr' is unknown"),
    (["sub-01.1"], {"max_q": 5.0}, "at most 1, not 5"),
])  # fmt: skip
def test_what_cannot_be_mapped_is_named(lab, tmp_path, neuroids, options, message):
    with pytest.raises(ValueError, match=message):
        maps.write(f"local:{lab}", rows(neuroids), tmp_path / "maps", **options)
    assert not (tmp_path / "maps").exists()


def test_a_folder_of_tables_has_no_space(tmp_path):
    with pytest.raises(ValueError, match="no BOLD images"):
        maps.grids(f"local:{tmp_path}")


def test_the_command_maps_what_a_run_has_scored(tmp_path, capsys):
    folder, out = bold.lab(tmp_path / "lab", subjects=("sub-01",)), str(tmp_path / "out")
    tiny.build("llama", tmp_path / "model", [" ".join(bold.WORDS)] * 20, 7)
    evaluate(tmp_path / "model", folder, "strict", controls=["length"], variants=(), out=out, progress=False)
    assert main(["maps", f"local:{folder}", "--out", out, "--stat", "r", "--stat", "layer"]) == 0
    assert "wrote 2 maps, and 1 drawings for `harness report`," in capsys.readouterr().out
    scores = tables.read(out, "neuroid_scores")
    scores = scores[(scores.model == "model") & scores.chosen].set_index("neuroid_id")
    for column in ("r", "layer"):
        (path,) = (tmp_path / "out" / "maps").rglob(f"sub-01_stat-{column}_statmap.nii.gz")
        values = nibabel.load(path).get_fdata()
        for label in (1, 2, 7):
            expected = float(scores.loc[f"sub-01.{label}", column])
            np.testing.assert_allclose(values[label == bold.ATLAS], expected, rtol=1e-6)
    (drawing,) = (tmp_path / "out" / "maps").rglob("stat-r_glassbrain.svg")
    assert "model · STRICT" in drawing.read_text()
    page.write(out)
    assert "Glass brain of sub-01, model · STRICT protocol." in (tmp_path / "out" / "report.html").read_text()
    assert main(["maps", f"local:{folder}", "--out", out, "--model", "modle"]) == 2
    assert "model" in capsys.readouterr().err
