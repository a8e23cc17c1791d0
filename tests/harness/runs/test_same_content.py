"""A network that several names have is scored once; the rows of each name are those of a computation of its own."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from harness.runs import pipeline
from harness.runs.workload import make_workload
from harness.spec import EvaluationSpec
from harness.storage import tables
from harness.storage.store import Store
from harness.units import quickstart
from harness.units.ceiling_units import compute_ceiling
from harness.units.score_units import ScoreUnit

pytestmark = pytest.mark.ray  # the quickstart's models


@pytest.fixture(scope="module")
def done(finished_quickstart, tmp_path_factory):
    """Spec, OUT and what was computed in a run of a base and its tuned version: one architecture, other weights."""
    folder = tmp_path_factory.mktemp("same")
    out, scored, run = str(folder / "out"), [], ScoreUnit.run
    built = shutil.copytree(quickstart.folder_of(finished_quickstart.out), quickstart.folder_of(out))
    tuned = shutil.copytree(built / "tiny-gpt2", folder / "tuned")
    weights = load_file(tuned / "model.safetensors")
    save_file({name: 1.5 * weight for name, weight in weights.items()}, tuned / "model.safetensors", {"format": "pt"})
    spec = EvaluationSpec(
        "quickstart", (str(built / "tiny-gpt2"), str(tuned)), ("synthetic", "synthetic-reading"), ("strict",),
        ("length",), keep=("weights",),
    )  # fmt: skip

    def counted(unit, *arguments):
        scored.append((unit.source.name, unit.dataset))
        run(unit, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreUnit, "run", counted)
        outcome = pipeline.run(spec, out, in_process={})
    assert not outcome.failures
    assert outcome.n_computed == outcome.n_units == len(scored) + 2
    return spec, out, scored


def units_of(spec, out, name):
    return [unit for unit in make_workload(spec, out, None).scores if unit.source.name == name]


def test_the_untrained_control_of_two_models_is_scored_once_for_each_recording(done):
    _, out, scored = done
    assert [dataset for name, dataset in scored if name.endswith(":untrained")] == ["synthetic", "synthetic-reading"]
    scores = tables.read(out, "model_scores").query("target == 'all'").set_index("model")
    assert scores.loc["tuned:untrained", "r"] == scores.loc["tiny-gpt2:untrained", "r"]
    assert scores.loc["tuned:untrained", "revision"] == scores.loc["tuned", "revision"]
    assert scores.loc["tuned", "r"] != scores.loc["tiny-gpt2", "r"]


def test_rows_taken_from_another_unit_are_those_of_a_computation(done, tmp_path):
    spec, out, _ = done
    shutil.copytree(Path(out) / "units" / "features", tmp_path / "units" / "features")
    store, fresh = Store(out), Store(str(tmp_path))
    recordings = make_workload(spec, out, None).recordings
    for unit in units_of(spec, out, "tuned:untrained"):
        dataset = recordings[unit.dataset]
        unit.run(dataset, compute_ceiling(dataset, unit.protocol, fresh), fresh)
        with store.open("scores", unit.key) as taken, fresh.open("scores", unit.key) as computed:
            compare(taken, computed)


def compare(taken, computed):
    names = {file.name for folder in (taken, computed) for file in folder.glob("*.[pn]*[tz]")}
    assert {"word_surprisals.parquet"} < names
    for name in names:
        if name.endswith(".npz"):
            ours, theirs = (dict(np.load(folder / name)) for folder in (taken, computed))
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
        else:
            ours, theirs = (pq.read_table(folder / name) for folder in (taken, computed))
            assert ours.schema == theirs.schema
            times = [column for column in ("created",) if column in ours.column_names]
            assert ours.drop_columns(times).to_pandas().equals(theirs.drop_columns(times).to_pandas()), name


def test_other_models_protocols_and_seeds_are_other_content(done):
    spec, out, _ = done
    units = make_workload(replace(spec, protocols=("strict", "paper")), out, None).scores
    untrained = [unit for unit in units if unit.source.kind == "untrained"]
    others = [unit for unit in units if unit.source.kind != "untrained"]
    assert len({unit.content for unit in untrained}) == len(untrained) / 2 == 4
    assert len({unit.content for unit in others}) == len(others) == 12
    assert not {replace(unit, seed=unit.seed + 1).content for unit in units} & {unit.content for unit in units}


def test_a_damaged_unit_gives_no_rows(done, tmp_path):
    spec, out, _ = done
    copy = str(shutil.copytree(out, tmp_path / "copy"))
    first, second = (units_of(spec, out, name)[0] for name in ("tiny-gpt2:untrained", "tuned:untrained"))
    file = Path(copy, "units", "scores", first.key, "model_scores.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    shutil.rmtree(Path(copy, "units", "scores", second.key))
    assert first.content == second.content
    assert not second.take_from(first, Store(copy))
    assert not Store(copy).has("scores", second.key)
