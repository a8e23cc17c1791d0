"""From the text to the score of every layer: Brain-Score language 2.3.0 on the same models and recordings.

The recordings have the published form of Pereira2018 and Blank2014 and made-up numbers; the models are stories260K and
babyllama-105. The figures were computed with brainscore-language 2.3.0 and brainscore-core 2.5.0 from PyPI (with
transformers 4, scikit-learn 1.7 and NumPy 1.26): its `HuggingfaceSubject` with the tokenizer's `truncation_side` left,
its benchmark classes and its metrics, unchanged except that ceilings were 1, and that the recordings' few groups allow
3 folds (Blank2014) and 4 (243sentences) where the benchmarks have 8 and 10. "ridge" is the benchmark's own score.
"linear" is that of its random splits, with features in float64: scikit-learn otherwise computes least squares in the
type of the features, float32 there, which moves scores by up to 0.006.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from harness.checkpoints import checkpoints
from harness.datasets import blank2014, pereira2018
from harness.extraction import backends
from harness.records import Layer
from harness.scoring import aggregate, brain_scores
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features

MODELS = ("stories260K", "babyllama-105")
FORMS = {"blank2014": "assy_Blank2014_fROI.nc", "pereira2018": "assy_Pereira2018_language.nc"}
LOADERS = {"blank2014": blank2014, "pereira2018": pereira2018}
TARGETS = {"blank2014": ("all",), "pereira2018": ("243sentences", "384sentences")}
# (model, target, benchmark) -> score of model.embed_tokens, then of model.layers.0 to 4.
RECORDED = {
    ("stories260K", "all", "ridge"): (0, -0.008936394, -0.023290817, -0.038030392, -0.026440982, -0.006995266),
    ("stories260K", "243sentences", "ridge"): (0, 0.024460952, 0.031403530, 0.011962441, 0.005870619, 0.055697141),
    ("stories260K", "384sentences", "ridge"): (0, -0.038476792, -0.033557186, 0.005225148, -0.005804766, -0.018303507),
    ("babyllama-105", "all", "ridge"): (0, -0.038218894, -0.007183287, 0.002666560, -0.015700576, -0.014155965),
    ("babyllama-105", "243sentences", "ridge"): (
        0, 0.009315465, -0.006494069, -0.022627208, -0.008398893, -0.033565466,
    ),
    ("babyllama-105", "384sentences", "ridge"): (
        0, -0.006265446, -0.010747517, -0.013394090, -0.004812079, 0.002062386,
    ),
    ("stories260K", "all", "linear"): (0, -0.003790189, -0.024554746, 0.003287478, -0.041726427, -0.032212529),
    ("stories260K", "243sentences", "linear"): (
        0, -0.008621154, 0.011430543, -0.046334086, -0.028617274, -0.043327589,
    ),
    ("stories260K", "384sentences", "linear"): (
        0, -0.028735191, -0.008381527, 0.007563647, -0.029594891, -0.043870099,
    ),
    ("babyllama-105", "all", "linear"): (0, -0.011356944, -0.003053212, -0.008115468, 0.006401223, 0.014303413),
    ("babyllama-105", "243sentences", "linear"): (
        0, -0.060322383, 0.056105664, 0.016231425, -0.005287370, 0.025488414,
    ),
    ("babyllama-105", "384sentences", "linear"): (
        0, 0.001676208, 0.052595551, 0.022133054, -0.023400186, -0.071292587,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def scores_of(shared, tmp_path_factory):
    """(model, data set, protocol) -> target -> score of every layer; `moved`: features differ by up to 1e-7."""
    store = Store(str(tmp_path_factory.mktemp("store")))

    @cache
    def loaded(model):
        checkpoint = checkpoints.resolve(str(shared / "models" / model))
        return checkpoint, backends.load("transformers", checkpoint, "cpu")

    def scores(model, name, protocol, moved=None):
        dataset = LOADERS[name].read(shared / "data" / "forms" / FORMS[name])
        checkpoint, network = loaded(model)
        source = FeatureSource(model, "model", checkpoint.revision, 0, checkpoint)
        unit = FeatureUnit(source, dataset.stimuli, protocol, states=True, surprisals=False)
        if store.manifest("features", unit.key) is None:
            unit.run(network, store)
        features, _ = stored_features(unit, store)
        if moved is not None:
            draw = np.random.default_rng(moved).uniform
            values = {layer: matrix + draw(-1e-7, 1e-7, matrix.shape) for layer, matrix in features.values.items()}
            features = replace(features, values=values)
        fits = brain_scores.score_layers(features, dataset.responses, protocol)
        targets = aggregate.targets(dataset.responses)
        return {
            target: [aggregate.layer_score(fits[Layer("decoder", k)], targets[target]) for k in range(6)]
            for target in TARGETS[name]
        }

    return scores


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_brainscore2026_gives_the_score_of_every_layer(model, name, scores_of):
    for target, ours in scores_of(model, name, LOADERS[name].BRAINSCORE2026).items():
        assert ours == pytest.approx(RECORDED[model, target, "ridge"], rel=0, abs=1e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_paper_differs_in_how_texts_are_encoded_and_constant_features_only(model, name, scores_of):
    """With Brain-Score's texts PAPER gives its score.

    Features differ by up to 5e-6 between versions of torch and between processors, which minimum-norm least squares
    amplifies: hence 1e-5, or what a change of the features by 1e-7 amounts to, which in one layer is more. On the same
    features, r per split and neuroid differed by at most 2e-7.
    """
    as_there = {"encoding": "brainscore", "bos": "none", "context": "label", "metric": "brainscore_r"}
    protocol = replace(LOADERS[name].PAPER, **as_there)
    for target, (embeddings, *layers) in scores_of(model, name, protocol).items():
        assert embeddings == 0  # constant features
        differences = np.abs(np.subtract(layers, RECORDED[model, target, "linear"][1:]))
        if differences.max() > 1e-5:
            moved = [scores_of(model, name, protocol, seed)[target][1:] for seed in range(3)]
            changes = np.abs(np.subtract(moved, layers)).max(axis=0)
            assert np.median(changes) < 1e-4  # so that the bound means something
            assert (differences < np.maximum(1e-5, changes)).all()


def test_paper_gives_the_score_of_brain_score_where_passages_and_windows_are_the_same(scores_of):
    ours = scores_of("stories260K", "pereira2018", pereira2018.PAPER)["384sentences"]
    assert ours[1:] == pytest.approx(RECORDED["stories260K", "384sentences", "linear"][1:], rel=0, abs=1e-5)


def test_an_encoder_decoder_which_brain_score_does_not_have_is_encoded_as_elsewhere(shared, tmp_path):
    checkpoint = checkpoints.resolve(str(shared / "models" / "t5-wikitext"))
    network = backends.load("transformers", checkpoint, "cpu")
    stimuli = pereira2018.read(shared / "data" / "forms" / FORMS["pereira2018"]).stimuli
    store, protocol = Store(str(tmp_path)), pereira2018.BRAINSCORE2026
    elsewhere = replace(protocol, encoding="shared", bos="window")
    there, here = (
        FeatureUnit(FeatureSource("t5", "model", checkpoint.revision, 0, checkpoint), stimuli, how, True, False)
        for how in (protocol, elsewhere)
    )
    for unit in (there, here):
        unit.run(network, store)
    ours, wanted = (stored_features(unit, store)[0] for unit in (there, here))
    assert ours.row_ids == wanted.row_ids == stimuli.ids
    for layer in wanted.layers:
        np.testing.assert_array_equal(ours.values[layer], wanted.values[layer])
