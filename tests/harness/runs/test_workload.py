"""What a run consists of: controls with files, and how a control's variant is chosen."""

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


def sources(spec, out):
    return {source.name: source for source in make_workload(spec, str(out), None).sources}


def test_a_control_appears_with_its_file_and_is_known_by_what_the_file_holds(tmp_path):
    spec = EvaluationSpec("x", (), ())
    assert not {"ngram", "static-vectors"} & set(sources(spec, tmp_path))
    file, copy, other = (tmp_path / name for name in ("corpus.txt", "copy.txt", "other.txt"))
    for path, content in ((file, "the bee"), (copy, "the bee"), (other, "a bee")):
        path.write_text(content)
    first, same, another = (sources(replace(spec, corpus=str(path)), tmp_path)["ngram"] for path in (file, copy, other))
    assert first.revision == same.revision != another.revision
    assert len(first.revision) == len("sha256-") + 16
    keys = [ScoreUnit(source, "d", "0", PAPER, 0).key for source in (first, same, another)]
    assert keys[0] == keys[1] != keys[2]
    assert set(sources(replace(spec, vectors=str(file)), tmp_path)) == set(spec.controls) - {"ngram"}


def test_variants_of_a_model_are_sources_of_their_own_and_chat_needs_a_template(shared, tmp_path):
    plain, chatty = shared / "models" / "stories260K", tmp_path / "chatty"
    shutil.copytree(plain, chatty)
    chatty.chmod(0o755)
    (chatty / "chat_template.jinja").write_text("{{ bos_token }}Q: {{ messages[0]['content'] }} A:")
    spec = EvaluationSpec("x", (str(plain), str(chatty)), (), variants=("untrained", "shuffled", "chat"), controls=())
    found = sources(spec, tmp_path)
    assert set(found) == {
        "stories260K", "stories260K:untrained", "stories260K:shuffled",
        "chatty", "chatty:untrained", "chatty:shuffled", "chatty:chat",
    }  # fmt: skip
    kinds = [found[name] for name in ("chatty", "chatty:untrained", "chatty:shuffled", "chatty:chat")]
    read = [FeatureUnit(source, synthetic.stimuli(), PAPER, True, True).key for source in kinds]
    assert len(set(read)) == 4
    assert [source.context_of(PAPER) for source in kinds] == [
        "passage", "passage", "passage, words shuffled", "passage, chat template",
    ]  # fmt: skip


def test_a_variant_reads_what_its_name_says(shared, tmp_path):
    """Each gives other states than the model does, on the same rows; the template's words come before the stimuli."""
    from harness.checkpoints import checkpoints
    from harness.extraction import backends

    chatty = tmp_path / "chatty"
    shutil.copytree(shared / "models" / "stories260K", chatty)
    chatty.chmod(0o755)
    (chatty / "chat_template.jinja").write_text("{{ bos_token }}Once {{ messages[0]['content'] }} end")
    checkpoint = checkpoints.resolve(str(chatty))
    loaded, store = backends.load("transformers", checkpoint, "cpu"), Store(str(tmp_path / "out"))
    shown = Stimuli(("a", "b"), ("the cat sat on the mat", "and the dog ran to the big house"), ("p", "p"))
    found = {}
    for kind in ("model", "shuffled", "chat"):
        unit = FeatureUnit(FeatureSource(kind, kind, checkpoint.revision, 1, checkpoint), shown, PAPER, True, True)
        unit.run(loaded, store)
        features, words = stored_features(unit, store)
        assert features.row_ids == words.word_ids == shown.ids
        found[kind] = features.values[Layer("decoder", 3)]
    assert np.abs(found["shuffled"] - found["model"]).max(axis=1).min() > 1e-3
    assert np.abs(found["chat"] - found["model"]).max(axis=1).min() > 1e-3
    by_hand = replace(shown, texts=("Once the cat sat on the mat", "and the dog ran to the big house"))
    unit = FeatureUnit(FeatureSource("x", "model", "other", 1, checkpoint), by_hand, PAPER, True, True)
    unit.run(loaded, store)
    np.testing.assert_allclose(found["chat"], stored_features(unit, store)[0].values[Layer("decoder", 3)], atol=1e-5)


@pytest.mark.parametrize("out", ["disk", "memory://lazy"])
def test_stored_layers_are_read_when_asked_for_and_outlive_the_unit(out, tmp_path, shared):
    """A large model's layers do not fit in memory together; a cleared store does not take away what is being read."""
    from harness.checkpoints import checkpoints
    from harness.extraction import backends

    checkpoint = checkpoints.resolve(str(shared / "models" / "stories260K"))
    store = Store(str(tmp_path / out) if out == "disk" else out)
    shown = Stimuli(("a", "b"), ("the cat sat on the mat", "and the dog ran"), ("p", "p"))
    unit = FeatureUnit(FeatureSource("m", "model", checkpoint.revision, 1, checkpoint), shown, PAPER, True, True)
    unit.run(backends.load("transformers", checkpoint, "cpu"), store)
    features, _ = stored_features(unit, store)
    assert features.shapes[Layer("decoder", 2)] == (2, 64)
    store.remove("features", unit.key)
    assert np.isfinite(features.values[Layer("decoder", 2)]).all()


@pytest.mark.parametrize("flag", ["--vectors", "--corpus"])
def test_a_file_that_is_not_there_is_wrong_use_before_anything_runs(flag, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", "quickstart", flag, str(tmp_path / "nowhere.txt"), "--out", str(out)]) == 2
    assert "nowhere.txt is no file" in capsys.readouterr().err
    assert not out.exists()


def test_a_controls_variant_is_chosen_on_training_rows_whatever_the_protocol_says(tmp_path):
    """Of OASM's widths the one of the drift is found, under least squares too, and not by the held-out scores."""
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
