"""How often paired tests and tests of single neuroids err: `python tests/benchmarks/false_positives.py`.

Made-up recordings are scored by the real folds, ridge and tests. Paired tests: 24 topics of 8 rows, ten folds of whole
topics, five subjects of six neuroids; noise is shared by the subjects (they saw the same rows) and by the rows of a
topic. Single neuroids: features and responses without relation, autocorrelated over scans or shared by topics and
passages. At p < 0.05 5 % of noise should be significant; 95 % of intervals should hold the true difference, which for
unequal models is the mean over all recordings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.protocol import WIDE_RIDGE, FoldRule, Protocol
from harness.records import Features, Floats, Layer, Responses
from harness.scoring import aggregate, folds, held_out, permutation
from harness.scoring.brain_scores import score_layers
from harness.statistics import paired

TOPICS, ROWS, SUBJECTS, NEUROIDS = 24, 8, 5, 6
LAYER = Layer("decoder", 0)
THRESHOLDS = (0.001, 0.01, 0.05, 0.5)


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--n", type=int, default=200, help="recordings per case (default: 200)")
    n = arguments.parse_args().n
    started = time.monotonic()
    print(f"paired tests, {n} recordings each: % with p < 0.05, % of intervals that hold the true difference")
    for name, make in PAIRS.items():
        tests = [_paired_test(*make(np.random.default_rng([seed, 1]))) for seed in range(n)]
        truth = float(np.mean([test.difference for test in tests])) if name == "unequal signals" else 0.0
        inside = np.mean([test.interval()[0] <= truth <= test.interval()[1] for test in tests])
        significant = np.mean([test.p() < 0.05 for test in tests])
        print(f"{name:32} {100 * significant:5.1f} {100 * inside:6.1f}   true difference {truth:.3f}", flush=True)
    print(f"\nneuroids of noise, {n // 5} recordings of 60 each: % with p <= {THRESHOLDS}; without stretching")
    for name, make in ALONE.items():
        tests = [_neuroid_tests(*make(np.random.default_rng([seed, 7])), seed) for seed in range(n // 5)]
        p, plain = (np.concatenate(values) for values in zip(*tests, strict=True))
        cells = " ".join(f"{100 * np.mean(p <= threshold):6.2f}" for threshold in THRESHOLDS)
        print(f"{name:32} {cells}   {100 * np.mean(plain <= 0.05):5.1f} at 0.05", flush=True)
    print(f"\n{time.monotonic() - started:.0f} s; standard error of 5 % in {n}: {100 * np.sqrt(0.0475 / n):.1f}")


# --- paired tests -----------------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, columns: int, of_topics: float = 0.3) -> Floats:
    """(row, column) noise with a fraction of its variance shared by the rows of a topic."""
    topics = np.repeat(rng.normal(size=(TOPICS, columns)), ROWS, axis=0)
    return np.sqrt(1 - of_topics) * rng.normal(size=topics.shape) + np.sqrt(of_topics) * topics


def _recording(rng: np.random.Generator, shared: float, latent: Floats | None = None) -> Responses:
    """Noise of which a fraction is shared by all neuroids, and a signal from the latent features if given."""
    n, v = TOPICS * ROWS, SUBJECTS * NEUROIDS
    values = np.sqrt(shared) * _noise(rng, 1) + np.sqrt(1 - shared) * _noise(rng, v)
    if latent is not None:
        values += 0.7 * latent @ rng.normal(size=(latent.shape[1], v)) / np.sqrt(latent.shape[1])
    return _responses(values, [f"g{i // ROWS:02d}" for i in range(n)], subjects=np.repeat(list("abcde"), NEUROIDS))


def _two_noises(shared: float, widths: tuple[int, int] = (12, 12)):
    return lambda rng: (_recording(rng, shared), *(_noise(rng, width) for width in widths))


def _untrained(rng: np.random.Generator):
    """A random projection of the model's features, with noise: both describe the same text, neither the responses."""
    X = _noise(rng, 24)
    return _recording(rng, 0.5), X, X @ rng.normal(size=(24, 24)) / 5 + 0.7 * _noise(rng, 24)


def _signals(*fractions: float):
    """Two views of the latent features, each with a fraction of signal."""

    def make(rng: np.random.Generator):
        latent = _noise(rng, 12)
        views = (fraction * latent + np.sqrt(1 - fraction**2) * _noise(rng, 12) for fraction in fractions)
        return _recording(rng, 0.5, latent), *views

    return make


PAIRS = {
    "two noise models": _two_noises(0.5),
    "two noise models, noise shared": _two_noises(0.95),
    "noise models of 40 and 5 features": _two_noises(0.5, (40, 5)),
    "noise model, untrained control": _untrained,
    "equal signals": _signals(0.7, 0.7),
    "unequal signals": _signals(0.8, 0.6),
}


def _paired_test(responses: Responses, first: Floats, second: Floats) -> paired.PairedTest:
    protocol = _protocol(FoldRule("grouped", n=10, min_test_rows=10))
    tables = [_by_subject(X, responses, protocol) for X in (first, second)]
    correlation = folds.correlation(folds.make(protocol.folds, responses.row_groups))
    return paired.compare(tables[0] - tables[1], ("",) * len(tables[0]), correlation)


def _by_subject(X: Floats, responses: Responses, protocol: Protocol) -> Floats:
    """(fold, subject) scores."""
    fit = score_layers(_features(X, responses), responses, protocol)[LAYER]
    return aggregate.targets(responses, "by subject")["all"].subject_medians(fit.r)


# --- single neuroids --------------------------------------------------------------------------------------------------


def _autocorrelated(rng: np.random.Generator, n: int, columns: int) -> Floats:
    noise = rng.normal(size=(n + 50, columns))
    for t in range(1, len(noise)):
        noise[t] += 0.8 * noise[t - 1]
    return noise[50:]


def _one_story(rng: np.random.Generator):
    X, Y = _autocorrelated(rng, 300, 10), _autocorrelated(rng, 300, 60)
    groups = [f"minute {i // 30}" for i in range(300)]
    return _responses(Y, groups, ["story"] * 300, is_scans=True), X, FoldRule("contiguous", n=5, gap=5)


def _stories(rng: np.random.Generator):
    lengths = rng.integers(30, 60, size=8)
    X, Y = (np.concatenate([_autocorrelated(rng, length, n) for length in lengths]) for n in (10, 60))
    groups = np.repeat([f"story {i}" for i in range(8)], lengths)
    return _responses(Y, groups, is_scans=True), X, FoldRule("leave one group out")


def _topics(sizes: tuple[int, int]):
    """24 topics of four passages, with means of topics and of passages in features and responses."""

    def make(rng: np.random.Generator):
        lengths = rng.integers(*sizes, size=24)
        topic = np.repeat(np.arange(24), lengths)
        passage = np.concatenate([4 * k + np.minimum(np.arange(n) // 3, 3) for k, n in enumerate(lengths)])

        def noise(n: int) -> Floats:
            shared = 0.5 * rng.normal(size=(24, n))[topic] + 0.5 * rng.normal(size=(96, n))[passage]
            return shared + 0.7 * rng.normal(size=(len(topic), n))

        groups, blocks = [f"topic {i}" for i in topic], [f"passage {i}" for i in passage]
        return _responses(noise(60), groups, blocks), noise(10), FoldRule("grouped", n=10, min_test_rows=10)

    return make


def _single_rows(rng: np.random.Generator):
    rows = [f"row {i}" for i in range(200)]
    return _responses(rng.normal(size=(200, 60)), rows), rng.normal(size=(200, 10)), FoldRule("grouped", n=10)


ALONE = {
    "one story, AR(1)": _one_story, "eight stories, AR(1)": _stories, "topics of 9 to 12 rows": _topics((9, 13)),
    "topics of 12 rows": _topics((12, 13)), "independent rows": _single_rows,
}  # fmt: skip


def _neuroid_tests(responses: Responses, X: Floats, rule: FoldRule, seed: int) -> tuple[Floats, Floats]:
    """(neuroid,) p, and p if the folds are taken to be independent."""
    splits = folds.make(rule, responses.row_groups)
    chosen = np.zeros((len(splits), responses.values.shape[1]), dtype=np.int64)
    by_fold = held_out.predict(_features(X, responses), responses, _protocol(rule), chosen)
    tests = (permutation.test_neuroids(by_fold, responses, rho, seed) for rho in (folds.correlation(splits), 0.0))
    return tuple(test.p for test in tests)


def _protocol(rule: FoldRule) -> Protocol:
    return Protocol("strict", "none", rule, WIDE_RIDGE, "nested", aggregate="by subject")


def _features(X: Floats, responses: Responses) -> Features:
    return Features({LAYER: X.astype(np.float32)}, responses.row_ids)


def _responses(
    values: Floats, groups: Sequence[str], blocks: Sequence[str] = (), subjects: Sequence[str] = (), *,
    is_scans: bool = False,
) -> Responses:  # fmt: skip
    n, v = values.shape
    ids, names = tuple(f"r{i}" for i in range(n)), tuple(f"v{k}" for k in range(v))
    groups = tuple(map(str, groups))
    return Responses(
        values.astype(np.float32), ids, groups, tuple(map(str, blocks)) or groups, names,
        tuple(map(str, subjects)) or ("a",) * v, ("",) * v, "z", np.arange(n) * 2.0 if is_scans else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
