"""Localised units: Welch's t of every unit as SciPy gives it, and the units of known selectivity found."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from harness.checkpoints import checkpoints
from harness.datasets.synthetic import PAPER
from harness.extraction import backends, localiser
from harness.extraction.localiser import Moments, welch_t
from harness.models import tiny
from harness.records import Ceiling, Dataset, Features, Layer, Responses, Stimuli
from harness.storage.store import Store
from harness.text import localiser_texts
from harness.text.localiser_texts import Contrast
from harness.units import localiser_units
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features
from harness.units.localiser_units import UNITS, LocaliserUnit, choose, of_units, stored_t
from harness.units.score_units import ScoreUnit
from harness.variants import UnitCount

SENTENCES = (
    "the bee watched the hive",
    "nobody moved the snow",
    "a king hid the golden fox",
    "every oak carried a rose",
)
NON_WORDS = ("ree boms hus wam", "oy ree loke slin pist", "trore os vo ro", "hu wrelt doil et hus", "kake wews baps")
CONTRAST = Contrast("made up", SENTENCES + NON_WORDS, (True,) * 4 + (False,) * 5)
ONE_PART = (np.array([[True] * 4 + [False] * 5]),)


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny.build(request.param, folder, [*SENTENCES, *NON_WORDS], seed=3)
    return checkpoints.resolve(str(folder))


def _t(first, second, chunks=1):
    moments = [Moments.of_none(first.shape[1]), Moments.of_none(first.shape[1])]
    for total, rows in zip(moments, (first, second), strict=True):
        for chunk in np.array_split(rows, chunks):
            total.add(chunk)
    return welch_t(*moments)


@pytest.mark.parametrize("chunks", [1, 3, 50])
def test_t_equals_that_of_scipy(chunks):
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 2, (40, 30)).astype(np.float32), rng.normal(2.5, 5, (33, 30)).astype(np.float32)
    first[:, 0] += 1e4  # a massive unit
    wanted = scipy.stats.ttest_ind(first.astype(float), second.astype(float), equal_var=False).statistic
    np.testing.assert_allclose(_t(first, second, chunks), wanted, rtol=1e-9)


def test_a_unit_that_is_constant_or_not_finite_has_no_t():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 20, 6)).astype(np.float32)
    first[:, 0] = second[:, 0] = 0.1  # constant
    first[:, 1], second[:, 1] = 0.1, 0.2  # constant within each condition
    first[3, 2], second[5, 3] = np.nan, np.inf
    t = _t(first, second, chunks=7)
    with np.errstate(all="ignore"):
        wanted = scipy.stats.ttest_ind(first.astype(float), second.astype(float), equal_var=False).statistic
    assert np.isnan(t[[0, 2, 3]]).all()
    assert t[1] == -np.inf
    np.testing.assert_allclose(t[4:], wanted[4:], rtol=1e-9)
    t_by_layer = {Layer("decoder", 1): t[:3], Layer("decoder", 2): t[3:]}
    with pytest.raises(ValueError, match="the model has 3 with a t"):
        choose(t_by_layer, UnitCount("4"))


def test_the_largest_t_are_chosen_over_all_layers_and_ties_by_order():
    t = {Layer("decoder", 1): np.array([1.0, 5, np.nan, 3]), Layer("decoder", 2): np.array([3.0, -9, 3, 5])}
    chosen = choose(t, UnitCount("3"))
    assert {layer: units.tolist() for layer, units in chosen.items()} == {
        Layer("decoder", 1): [1, 3], Layer("decoder", 2): [3],
    }  # fmt: skip
    assert {layer.index: units.tolist() for layer, units in choose(t, UnitCount("50%")).items()} == {
        1: [1, 3], 2: [0, 3],
    }  # fmt: skip
    assert choose(t, UnitCount("1%"))[Layer("decoder", 1)].tolist() == [1]


def test_random_units_are_as_many_others():
    t = {Layer("decoder", k): np.arange(20.0) + k for k in (1, 2, 3)}
    localised, drawn = choose(t, UnitCount("30%")), [choose(t, UnitCount("30%"), seed) for seed in (0, 1, 0)]
    flat = [
        {(layer, unit) for layer, units in choice.items() for unit in units.tolist()} for choice in (localised, *drawn)
    ]
    assert [len(units) for units in flat] == [18] * 4
    assert flat[1] == flat[3] != flat[2]
    assert not flat[0] & (flat[1] | flat[2])
    with pytest.raises(ValueError, match="localise at most half"):
        choose(t, UnitCount("51%"), 0)


def test_chosen_units_are_concatenated_in_the_order_of_the_layers():
    values = {Layer("decoder", k): np.arange(12.0).reshape(3, 4) + 100 * k for k in (0, 1, 2)}
    features = Features(values, ("a", "b", "c"))
    units = {Layer("decoder", 1): np.array([0, 3]), Layer("decoder", 2): np.array([2])}
    np.testing.assert_array_equal(
        of_units(features, units).values[UNITS], [[100, 103, 202], [104, 107, 206], [108, 111, 210]]
    )


def _plain(loaded, text, stack):
    """(layer, hidden) states at the last token of a text, by transformers alone; all blocks but the last."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    more = {}
    if loaded.is_encoder_decoder:
        ids, decoder = [*ids, loaded.tokenizer.eos_token_id], [2, *ids]
        if stack == "decoder":
            ids = [loaded.tokenizer.eos_token_id]
        more = {"decoder_input_ids": torch.tensor([decoder])}
    else:
        ids = [*loaded.prefix, *ids]
    with torch.no_grad():
        out = loaded.model(input_ids=torch.tensor([ids]), output_hidden_states=True, **more)
    name = f"{stack}_hidden_states" if loaded.is_encoder_decoder else "hidden_states"
    at = -2 if loaded.is_encoder_decoder and stack == "encoder" else -1
    return np.stack([state[0, at].numpy() for state in out[name][1:-1]])


@pytest.mark.parametrize("chunk", [2, 64])
def test_t_of_a_model_equals_that_of_plain_forward_passes(checkpoint, chunk, monkeypatch):
    monkeypatch.setattr(localiser, "CHUNK", chunk)
    model = backends.load("transformers", checkpoint, "cpu")
    t, facts = localiser.localise(model, CONTRAST, replace(PAPER, context="none", pooling="last"))
    stacks = ("encoder", "decoder") if model.loaded.is_encoder_decoder else ("decoder",)
    assert sorted(t) == [Layer(stack, k) for stack in sorted(stacks) for k in range(1, 5)]
    for stack in stacks:
        first, second = (
            np.stack([_plain(model.loaded, text, stack) for text in texts]) for texts in (SENTENCES, NON_WORDS)
        )
        wanted = scipy.stats.ttest_ind(first.astype(float), second.astype(float), equal_var=False).statistic
        for k in range(1, 4):
            np.testing.assert_allclose(t[Layer(stack, k)], wanted[k - 1], rtol=1e-3, atol=1e-3)
    assert facts["parity_states"] < 1e-4


def test_units_that_respond_to_sentences_are_found(monkeypatch):
    """A made-up model in which given units are larger at the last token of sentences."""
    planted = {Layer("decoder", 1): [3, 17], Layer("decoder", 2): [0], Layer("decoder", 4): [5, 6, 40]}
    rng = np.random.default_rng(0)

    class Made:
        backend, loaded = "vllm", None

        def extract(self, tokens, protocol, *, states, log_probabilities):
            values = {Layer("decoder", k): rng.normal(size=(len(tokens), 50)).astype(np.float32) for k in range(5)}
            for layer, units in planted.items():
                is_sentence = np.array([int(name) < 240 for name in tokens])
                values[layer][np.ix_(is_sentence, units)] += 2
            from harness.records import Extraction

            return Extraction(Features(values, tuple(tokens)), None)

    monkeypatch.setattr(localiser, "_encoded", lambda model, stimuli, protocol: list(stimuli.ids))
    t, _ = localiser.localise(Made(), localiser_texts.built_in(), PAPER)
    chosen = choose(t, UnitCount("6"))
    assert {layer: units.tolist() for layer, units in chosen.items()} == planted
    assert Layer("decoder", 0) not in t


def test_localised_units_are_scored_in_place_of_layers(checkpoint, tmp_path):
    """Responses that follow the localised units are predicted by them better than by random units."""
    store, model = Store(str(tmp_path / "out")), backends.load("transformers", checkpoint, "cpu")
    rng = np.random.default_rng(0)
    words = [word for text in SENTENCES for word in text.split()]
    texts = tuple(dict.fromkeys(" ".join(rng.choice(words, 6)) for _ in range(90)))
    ids = tuple(f"s{k}" for k in range(len(texts)))
    stimuli, protocol = Stimuli(ids, texts, ids), replace(PAPER, context="none")
    source = FeatureSource("m", "model", checkpoint.revision, 0, checkpoint)
    features = FeatureUnit(source, stimuli, protocol, states=True, surprisals=False)
    unit = LocaliserUnit(source, CONTRAST, protocol)
    for extracted in (features, unit):
        extracted.run(model, store)
    chosen = of_units(stored_features(features, store)[0], choose(stored_t(unit, store), UnitCount("8")))
    signal = chosen.values[UNITS] / chosen.values[UNITS].std(axis=0)
    values = (signal @ rng.normal(size=(8, 5)) + 0.1 * rng.normal(size=(len(ids), 5))).astype(np.float32)
    names = tuple("abcde")
    responses = Responses(values, ids, ids, ids, names, ("p",) * 5, ("r",) * 5, "a.u.")
    dataset, r = Dataset("d", "0", stimuli, responses), {}
    for kind in ("localised", "random units"):
        own = replace(
            source, name=f"m:{kind.replace(' ', '-')}-8", kind=kind, n_units=UnitCount("8"), contrast=CONTRAST
        )
        assert FeatureUnit(own.network, stimuli, protocol, states=True, surprisals=False).key == features.key
        score = ScoreUnit(own, "d", "0", protocol, 0, features, localiser=unit)
        assert [need.stored_as for need in score.needs] == ["features", "localisers"]
        score.run(dataset, Ceiling(("",), np.full((1, 5), np.nan), ("",) * 5), store)
        import pyarrow.parquet as pq

        with store.open("scores", score.key) as folder:
            (row,) = [
                row for row in pq.read_table(folder / "model_scores.parquet", partitioning=None).to_pylist()
                if row["target"] == "all"
            ]  # fmt: skip
            units = np.load(folder / "units.npz")
        assert (row["stack"], row["layer"], row["n_features"], row["kind"]) == ("units", 0, 8, kind)
        assert len(units["t"]) == 8
        same = stored_t(unit, store)[Layer(str(units["stack"][3]), int(units["layer"][3]))][units["unit"][3]]
        assert units["t"][3] == same
        r[kind] = row["r"]
    assert r["localised"] > 0.95
    assert r["localised"] - r["random units"] > 0.03


def test_keys_tell_networks_texts_numbers_and_draws_apart(checkpoint):
    source = FeatureSource(
        "m:localised-8", "localised", checkpoint.revision, 0, checkpoint, n_units=UnitCount("8"), contrast=CONTRAST
    )
    plain = LocaliserUnit(source.network, CONTRAST, PAPER)
    untrained = replace(source, name="m:untrained-localised-8", kind="untrained localised")
    other = replace(CONTRAST, texts=(*CONTRAST.texts[:-1], "baps kake wews"))
    units = [
        plain, LocaliserUnit(untrained.network, CONTRAST, PAPER), LocaliserUnit(source.network, other, PAPER),
        replace(plain, dtype="bfloat16"), replace(plain, protocol=replace(PAPER, bos="none")),
    ]  # fmt: skip
    assert len({unit.key for unit in units}) == len(units)
    same = replace(plain, protocol=replace(PAPER, context="passage", pooling="mean", overlap=0.2))
    assert same.key == plain.key
    assert (untrained.network.name, untrained.network.kind) == ("m:untrained", "untrained")
    assert untrained.identity == untrained.network.identity != source.identity
    random_units = replace(source, kind="random units")
    scores = [
        ScoreUnit(of, "d", "0", PAPER, 0, localiser=plain)
        for of in (source, replace(source, n_units=UnitCount("9")), random_units, replace(random_units, seed=1))
    ]  # fmt: skip
    assert len({score.key for score in scores}) == 4
    assert localiser_units.UNITS.stack == "units"
