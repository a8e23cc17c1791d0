"""Side-by-side timings: prints a table and writes benchmarks.json. Every row passed its gate before its time counts.

Two questions: ridge in the dual, all neuroids at once, against scikit-learn's RidgeCV with an alpha per target; one
pass over a story against re-encoding the growing context for every word. `make bench`; no shared data are needed.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from threadpoolctl import threadpool_limits

from harness import checkpoints, contexts, extract, reader, tiny, tokens
from harness.datasets import synthetic
from harness.records import Layer, Stimuli
from kernels.gram import design
from kernels.ridge import Penalty, fit_fold

REPEATS = 3
ALPHAS = tuple(np.logspace(-3, 8, 12))
OUT = Path("benchmarks.json")


def paired(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of each, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for call, kept in zip((ours, theirs), times, strict=True):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def ridge(n: int, p: int, v: int) -> list[dict[str, object]]:
    """One fold, 12 alphas, an alpha per neuroid by leave-one-out; gate: the same alphas, r within 1e-9."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    Y = X @ rng.standard_normal((p, v)) / np.sqrt(p) + 3 * rng.standard_normal((n, v))
    train, test = np.arange(n - n // 5), np.arange(n - n // 5, n)

    def ours() -> object:
        return fit_fold(design(X), Y, train, test, Penalty(ALPHAS, tie="smaller"))

    def theirs() -> object:
        model = RidgeCV(ALPHAS, alpha_per_target=True).fit(X[train], Y[train])
        return model.alpha_, model.predict(X[test])

    fit = ours()
    alpha, predicted = theirs()
    r = [np.corrcoef(predicted[:, k], Y[test, k])[0, 1] for k in range(0, v, 97)]
    if not (np.array_equal(fit.alpha, alpha) and np.allclose(fit.r[::97], r, atol=1e-9)):
        raise SystemExit("ridge: alphas or r differ from scikit-learn's; no time is worth reading")
    return rows("ridge", f"n={n} p={p} v={v}, 1 fold", "scikit-learn RidgeCV", *paired(ours, theirs))


def one_pass(n_words: int) -> list[dict[str, object]]:
    """States at every word of a story; gate: equal to 1e-4."""
    words = synthetic.words(synthetic.stimuli())
    story = Stimuli(words.ids[:n_words], words.texts[:n_words], ("story",) * n_words)
    with tempfile.TemporaryDirectory() as folder:
        model = reader.load(checkpoints.resolve(str(tiny.build("llama", Path(folder) / "tiny", story.texts, 0))))
    read = tokens.encode(contexts.build(story, "passage")[0], model.tokenizer)
    last = Layer("decoder", tiny.BLOCKS)

    def ours() -> object:
        return extract.extract(model, [read], log_probabilities=False).features.values[last]

    def theirs() -> object:
        """As Brain-Score 2023 does: the text so far, from its first token (or the last that fit), for every word."""
        kept = []
        handle = model.model.base_model.layers[-1].register_forward_hook(
            lambda _, __, out: kept.append((out[0] if isinstance(out, tuple) else out)[0, -1].numpy())
        )
        with torch.inference_mode():
            for end in read.last:
                ids = [*model.prefix, *read.ids[: end + 1]][-model.limit :]
                model.model.base_model(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        return np.stack(kept)

    fits = read.last + len(model.prefix) < model.limit  # beyond it the two read other contexts
    if not np.allclose(ours()[fits], theirs()[fits], atol=1e-4):
        raise SystemExit("extraction: states differ from those of the growing context; no time is worth reading")
    return rows("extraction", f"{n_words} words, tiny llama", "growing context", *paired(ours, theirs))


def rows(benchmark: str, workload: str, other: str, ours_s: float, theirs_s: float) -> list[dict[str, object]]:
    """Two rows of benchmarks.json."""
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    common = {"benchmark": benchmark, "workload": workload, "machine": machine}
    return [
        {**common, "subject": subject, "seconds": seconds, "ratio_to_ours": seconds / ours_s}
        for subject, seconds in (("ours", ours_s), (other, theirs_s))
    ]


def main() -> None:
    """Run all, print a table, write benchmarks.json."""
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found += ridge(384, 768, 4000) + ridge(627, 2048, 2000) + one_pass(200)
    OUT.write_text(json.dumps(found, indent=1))
    print(f"{'benchmark':<12}{'workload':<32}{'subject':<24}{'seconds':>9}{'ratio':>8}  machine")
    for row in found:
        print(
            f"{row['benchmark']:<12}{row['workload']:<32}{row['subject']:<24}{row['seconds']:>9.3f}"
            f"{row['ratio_to_ours']:>8.1f}  {row['machine']}"
        )
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
