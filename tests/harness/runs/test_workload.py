"""The workload of a run: controls with files, variants of models, and the choice of a control's variant."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.cli.commands import main
from harness.datasets import synthetic
from harness.datasets.synthetic import PAPER
from harness.features import controls
from harness.protocol import FoldRule
from harness.records import Ceiling, Dataset, Layer, Responses, Stimuli
from harness.runs.workload import make_workload
from harness.scoring import aggregate, brain_scores
from harness.spec import EvaluationSpec
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features
from harness.units.score_units import ScoreUnit
from harness.variants import Condition

pytestmark = pytest.mark.ray


def sources(spec, out):
    return {source.name: source for source in make_workload(spec, str(out), None).sources}


def test_a_control_needs_its_file_and_its_revision_depends_on_the_content_alone(tmp_path):
    spec = EvaluationSpec("x", (), ())
    assert not {"ngram", "static-vectors"} & set(sources(spec, tmp_path))
    file, copy, other = (tmp_path / name for name in ("corpus.txt", "copy.txt", "other.txt"))
    for path, content in ((file, "the bee"), (copy, "the bee"), (other, "a bee")):
        path.write_text(content)
    first, repeated, another = (
        sources(replace(spec, corpus=str(path)), tmp_path)["ngram"] for path in (file, copy, other)
    )
    assert first.revision == repeated.revision != another.revision
    assert len(first.revision) == len("sha256-") + 16
    keys = [ScoreUnit(source, "d", "0", PAPER, 0).key for source in (first, repeated, another)]
    assert keys[0] == keys[1] != keys[2]
    assert set(sources(replace(spec, vectors=str(file)), tmp_path)) == set(spec.controls) - {"ngram"}


def test_variants_of_a_model_are_separate_sources_and_chat_needs_a_template(shared, tmp_path):
    plain, chatty = shared / "models" / "stories260K", tmp_path / "chatty"
    shutil.copytree(plain, chatty)
    chatty.chmod(0o755)
    (chatty / "chat_template.jinja").write_text("{{ bos_token }}Q: {{ messages[0]['content'] }} A:")
    spec = EvaluationSpec("x", (str(plain), str(chatty)), (), variants=("untrained", "shuffled", "chat"), controls=())
    sources_by_name = sources(spec, tmp_path)
    assert set(sources_by_name) == {
        "stories260K", "stories260K:untrained", "stories260K:shuffled",
        "chatty", "chatty:untrained", "chatty:shuffled", "chatty:chat",
    }  # fmt: skip
    kinds = [sources_by_name[name] for name in ("chatty", "chatty:untrained", "chatty:shuffled", "chatty:chat")]
    keys = [FeatureUnit(source, synthetic.stimuli(), PAPER, True, True).key for source in kinds]
    assert len(set(keys)) == 4
    assert [source.context_of(PAPER) for source in kinds] == [
        "passage", "passage", "passage, words shuffled", "passage, chat template",
    ]  # fmt: skip


def test_variants_get_the_text_that_their_name_says(shared, tmp_path):
    """Their hidden states differ from the model's on the same rows; the template's words precede the stimuli."""
    from harness.checkpoints import checkpoints
    from harness.extraction import backends

    chatty = tmp_path / "chatty"
    shutil.copytree(shared / "models" / "stories260K", chatty)
    chatty.chmod(0o755)
    (chatty / "chat_template.jinja").write_text("{{ bos_token }}Once {{ messages[0]['content'] }} end")
    checkpoint = checkpoints.resolve(str(chatty))
    loaded, store = backends.load("transformers", checkpoint, "cpu"), Store(str(tmp_path / "out"))
    stimuli = Stimuli(("a", "b"), ("the cat sat on the mat", "and the dog ran to the big house"), ("p", "p"))
    states = {}
    for kind in ("model", "shuffled", "chat"):
        unit = FeatureUnit(FeatureSource(kind, kind, checkpoint.revision, 1, checkpoint), stimuli, PAPER, True, True)
        unit.run(loaded, store)
        features, words = stored_features(unit, store)
        assert features.row_ids == words.word_ids == stimuli.ids
        states[kind] = features.values[Layer("decoder", 3)]
    assert np.abs(states["shuffled"] - states["model"]).max(axis=1).min() > 1e-3
    assert np.abs(states["chat"] - states["model"]).max(axis=1).min() > 1e-3
    by_hand = replace(stimuli, texts=("Once the cat sat on the mat", "and the dog ran to the big house"))
    unit = FeatureUnit(FeatureSource("x", "model", "other", 1, checkpoint), by_hand, PAPER, True, True)
    unit.run(loaded, store)
    np.testing.assert_allclose(states["chat"], stored_features(unit, store)[0].values[Layer("decoder", 3)], atol=1e-5)


@pytest.mark.parametrize("out", ["disk", "memory://lazy"])
def test_stored_layers_are_loaded_on_access_and_outlive_the_unit(out, tmp_path, shared):
    """All layers of a large model do not fit into memory; clearing the store must not affect open features."""
    from harness.checkpoints import checkpoints
    from harness.extraction import backends

    checkpoint = checkpoints.resolve(str(shared / "models" / "stories260K"))
    store = Store(str(tmp_path / out) if out == "disk" else out)
    stimuli = Stimuli(("a", "b"), ("the cat sat on the mat", "and the dog ran"), ("p", "p"))
    unit = FeatureUnit(FeatureSource("m", "model", checkpoint.revision, 1, checkpoint), stimuli, PAPER, True, True)
    unit.run(backends.load("transformers", checkpoint, "cpu"), store)
    features, _ = stored_features(unit, store)
    assert features.shapes[Layer("decoder", 2)] == (2, 64)
    store.remove("features", unit.key)
    assert np.isfinite(features.values[Layer("decoder", 2)]).all()


@pytest.mark.parametrize("flag", ["--vectors", "--corpus"])
def test_a_missing_file_is_a_usage_error_before_anything_runs(flag, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", "quickstart", flag, str(tmp_path / "nowhere.txt"), "--out", str(out)]) == 2
    assert "nowhere.txt does not exist" in capsys.readouterr().err
    assert not out.exists()


def test_a_controls_variant_is_chosen_on_training_rows_under_every_protocol(tmp_path):
    """OASM's width is the one of the planted drift, also under least squares, and is not chosen by held-out scores."""
    rng = np.random.default_rng(0)
    n = 120
    ids, blocks = tuple(f"s{i}" for i in range(n)), tuple(f"p{i // 30}" for i in range(n))
    empty = Responses(
        np.zeros((n, 6), dtype=np.float32), ids, ids, blocks, tuple("abcdef"), ("s",) * 6, ("r",) * 6, "z"
    )
    widths = controls.oasm(empty).values
    drift = list(widths.values())[2] @ rng.standard_normal((n, 6)) + 0.05 * rng.standard_normal((n, 6))
    responses = replace(empty, values=drift.astype(np.float32))
    dataset = Dataset("drift", "0", Stimuli(ids, ("a bee",) * n, blocks), responses)
    protocol = replace(PAPER, folds=FoldRule("shuffled", n=5, test_fraction=0.2))
    store = Store(str(tmp_path))
    unit = ScoreUnit(FeatureSource("oasm", "control", "", 0), "drift", "0", protocol, 0)
    unit.run(dataset, Ceiling(responses.parts, np.full((1, 6), np.nan), ("",) * 6), store)
    with store.open("scores", unit.key) as folder:
        row = pq.read_table(folder / "model_scores.parquet").to_pylist()[0]
    fits = brain_scores.score_layers(controls.oasm(responses), responses, protocol)
    assert all(np.isfinite(fit.inner).all() for fit in fits.values())
    target = aggregate.targets(responses)["all"]
    nested, best = (aggregate.choose(fits, how, responses, target, 0) for how in ("nested", "max"))
    assert row["layer_choice"] == "by training rows in each fold"
    assert row["r"] == nested.r <= best.r
    assert row["r"] > 0.9
    assert row["layer"] in {1, 2}


@pytest.mark.parametrize(("layer_choice", "is_compared"), [("max", True), ("nested", False)])
def test_oasm_of_whole_passages_is_not_fitted_and_compared_over_all_pairs_only(tmp_path, layer_choice, is_compared):
    """Held-out pairs of passages that OASM does not relate have no similarity, not one of rounding errors."""
    rng, n = np.random.default_rng(0), 60
    ids, blocks = tuple(f"s{i}" for i in range(n)), tuple(f"p{i // 10}" for i in range(n))
    values = rng.standard_normal((n, 6)).astype(np.float32)
    responses = Responses(values, ids, blocks, blocks, tuple("abcdef"), ("s",) * 6, ("r",) * 6, "z")
    dataset = Dataset("noise", "0", Stimuli(ids, tuple(f"bee number {i}" for i in range(n)), blocks), responses)
    protocol = replace(PAPER, folds=FoldRule("leave one group out", n=6), layer_choice=layer_choice)
    unit, store = ScoreUnit(FeatureSource("oasm", "control", "", 0), "noise", "0", protocol, 0), Store(str(tmp_path))
    unit.run(dataset, Ceiling(responses.parts, np.full((1, 6), np.nan), ("",) * 6), store)
    with store.open("scores", unit.key) as folder:
        scores = pq.read_table(folder / "model_scores.parquet").to_pylist()
        similarities = pq.read_table(folder / "similarity_scores.parquet").to_pylist()
    assert np.isnan([row["r"] for row in scores]).all()
    assert {row["metric"] for row in similarities} == {"rsa", "cka"}
    assert (np.isfinite([row["value"] for row in similarities]) == is_compared).all()


def test_prompts_and_chosen_units_are_sources_of_their_own(shared, tmp_path):
    folder = str(shared / "models" / "stories260K")
    spec = EvaluationSpec(
        "x", (folder,), ("futrell2018-2016", "tuckute2024"), ("strict",), controls=(), localise=("10%", "12"),
        random_draws=2, conditions=(Condition("careful", "Read: "),),
    )  # fmt: skip
    workload = make_workload(spec, str(tmp_path), str(shared / "data"))
    assert not workload.failures
    units = [
        f"stories260K:{name}-{n}" for n in ("10pct", "12") for name in ("localised", "untrained-localised")
    ] + [f"stories260K:random-units-{n}" for n in ("10pct", "10pct-2", "12", "12-2")]  # fmt: skip
    others = ["stories260K", "stories260K:untrained", "stories260K:condition-careful"]
    assert sorted(source.name for source in workload.sources) == sorted(units + others)
    by_dataset = {
        name: {unit.source.name: unit for unit in workload.scores if unit.dataset == name} for name in spec.datasets
    }
    assert sorted(by_dataset["futrell2018-2016"]) == sorted(others)  # reading times have no units
    scores = by_dataset["tuckute2024"]
    assert sorted(scores) == sorted(units + others)
    assert scores["stories260K:localised-12"].features.key == scores["stories260K"].features.key
    assert scores["stories260K:untrained-localised-12"].features.key == scores["stories260K:untrained"].features.key
    assert len({scores[name].localiser.key for name in units}) == 2  # of the model, and of its untrained control
    assert len({unit.key for unit in scores.values()}) == len(scores)
    prompted = scores["stories260K:condition-careful"]
    assert prompted.features.key != scores["stories260K"].features.key
    assert prompted.source.context_of(prompted.protocol) == "none, prompt 'Read: {stimulus}'"
    plain = make_workload(replace(spec, localise=(), conditions=()), str(tmp_path), str(shared / "data"))
    assert {unit.key for unit in plain.scores} <= {unit.key for unit in workload.scores}
