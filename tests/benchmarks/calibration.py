"""How often the statistics err where nothing is there: `python tests/benchmarks/calibration.py`.

Null data sets of the paper's form (17 pairs of 8 bases, of 5, 2, 2, 2, 2, 2, 1 and 1 tuned models), whose differences
share a part with their base: a share `icc` of the variance. Each test is to be wrong in 5 of 100 at p < .05, each 95 %
interval to leave out the truth in 5 of 100. Beside them what is not to be quoted: the t-test that takes pairs for
independent, the correlation that takes models for independent, the interval over bases where people differ.

Every number comes from the functions that `harness analyse` calls: a null data set is one data set of a table of
scores. A star marks what is further than a point from nominal; the standard error of a rate is in the last line.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.statistics import scores, tuning
from harness.statistics.correlations import correlations

SIZES = (5, 2, 2, 2, 2, 2, 1, 1)
OF = np.repeat(np.arange(len(SIZES)), SIZES)
BASES = [f"base{k}" for k in range(len(SIZES))]
TUNED = [f"tuned{i}" for i in range(len(OF))]
ICCS = (0.0, 0.15, 0.3, 0.5, 0.8)
PEOPLE = 9
# Shares of the variance of a difference that are the base's, the person's, and the rest.
CROSSED = {"people as bases": (1, 1, 1), "people above bases": (0.2, 1, 1), "bases above people": (1, 0.2, 1)}
SCALE = 0.01  # of the differences, in r
A_PROPERTY = 20  # data sets that share a property


def main() -> None:
    """Print one line for each test and condition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n", type=int, default=1000, help="null data sets for each condition (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    print(f"{'condition':<28}{'what':<58}{'wrong %':>8}")
    for condition, what, quoted, wrong in rows(arguments.n, arguments.seed):
        rate = 100 * float(np.mean(wrong))
        mark = "" if not quoted else "" if 4 <= rate <= 6 else " *"
        print(f"{condition:<28}{what if quoted else f'({what})':<58}{rate:8.1f}{mark}", flush=True)
    error = 100 * np.sqrt(0.05 * 0.95 / arguments.n)
    print(f"{arguments.n} data sets each, standard error {error:.1f}; {time.perf_counter() - started:.0f} s")


def rows(n: int, seed: int) -> Iterator[tuple[str, str, bool, np.ndarray]]:
    """(condition, what, whether it is to be quoted, whether it erred in each data set)."""
    for icc in ICCS:
        yield from of_pairs(n, icc, np.random.default_rng([seed, int(100 * icc)]))
    for condition, shares in CROSSED.items():
        yield from of_people(n, condition, shares, np.random.default_rng([seed, *np.multiply(shares, 10).astype(int)]))
    for icc in ICCS[1:]:
        yield from of_properties(n, icc, np.random.default_rng([seed, 1, int(100 * icc)]))


def of_pairs(n: int, icc: float, draw: np.random.Generator) -> Iterator[tuple[str, str, bool, np.ndarray]]:
    """Tests of tuned minus base."""
    differences = SCALE * grouped(n, icc, draw)
    table = table_of(differences, draw)
    found = tuning.tests(table, tuning.pairs(table))
    name = f"icc {icc:g}"
    yield name, "sign flips over bases", True, found["p_sign_flip"] < 0.05
    yield name, "interval of the bootstrap over bases", True, misses(found, "low", "high")
    yield name, "mixed model, p and interval", True, misses(found, "mixed_low", "mixed_high")
    yield name, "t over bases (p_interval)", True, found["p_interval"] < 0.05
    yield name, "Wilcoxon over bases; 8 bases allow at most 3.9", False, found["p_wilcoxon"] < 0.05
    yield name, "t over pairs as if independent", False, found["p_t_pairs"] < 0.05


def of_people(
    n: int, condition: str, shares: tuple[float, float, float], draw: np.random.Generator
) -> Iterator[tuple[str, str, bool, np.ndarray]]:
    """Intervals where people differ in what tuning does."""
    of_bases, of_people, rest = np.sqrt(shares)
    effect = of_bases * draw.normal(size=(n, len(SIZES), 1)) + of_people * draw.normal(size=(n, 1, PEOPLE))
    effect = SCALE * (effect + rest * draw.normal(size=(n, len(SIZES), PEOPLE)))[:, OF]
    alone = table_of(effect.mean(axis=2), draw)
    people = pd.DataFrame({
        "model": np.tile(np.repeat(TUNED, PEOPLE), n), "dataset": np.repeat(names(n), len(OF) * PEOPLE), "protocol": "",
        "subject": np.tile([f"s{k}" for k in range(PEOPLE)], n * len(OF)), "score": effect.ravel(),
    })  # fmt: skip
    bases = people[["dataset", "protocol", "subject"]].drop_duplicates().merge(pd.DataFrame({"model": BASES}), "cross")
    table = scores.replace(alone, by_subject=pd.concat([people, bases.assign(score=0.0)]))
    found = tuning.tests(table, tuning.pairs(table))
    assert set(found["interval_over"]) == {"bases and subjects"}
    yield condition, f"interval over bases and {PEOPLE} people", True, misses(found, "low", "high")
    yield condition, "its t (p_interval)", True, found["p_interval"] < 0.05
    without = tuning.tests(alone, tuning.pairs(alone))
    yield condition, "interval over bases alone", False, misses(without, "low", "high")


def of_properties(n: int, icc: float, draw: np.random.Generator) -> Iterator[tuple[str, str, bool, np.ndarray]]:
    """Correlation of scores with a property that has nothing to do with them, both alike within bases.

    The property is drawn anew for every few data sets: for one draw of it the rate may be 3 or 7 %, since the means of
    bases with more models vary less.
    """
    parts = []
    for _ in range(n // A_PROPERTY):
        table = table_of(SCALE * grouped(A_PROPERTY, icc, draw), draw)
        table.models["size"] = np.nan
        table.models.loc[TUNED, "size"] = draw.normal(size=len(SIZES))[OF]
        parts.append(correlations(scores.replace(table, properties=("size",))))
    found = pd.concat(parts)
    tuned = found[(found["population"] == "tuned") & (found["covariate"] == "")]
    name = f"correlation, icc {icc:g}"
    for unit, quoted, what in (("base", True, "r over bases"), ("model", False, "r over models as if independent")):
        part = tuned[tuned["unit"] == unit]
        yield name, what, quoted, part["p"] < 0.05
        yield name, f"{what}: Fisher's interval", quoted, misses(part, "r_low", "r_high")


def grouped(n: int, icc: float, draw: np.random.Generator) -> np.ndarray:
    """(data set, pair) of variance 1, a share `icc` of it the base's."""
    of_bases, rest = draw.normal(size=(n, len(SIZES))), draw.normal(size=(n, len(OF)))
    return np.sqrt(icc) * of_bases[:, OF] + np.sqrt(1 - icc) * rest


def table_of(differences: np.ndarray, draw: np.random.Generator) -> scores.Scores:
    """Scores whose tuned models differ from their bases by these; one data set for each row."""
    n = len(differences)
    of_bases = draw.uniform(0.2, 0.4, size=(n, len(SIZES)))
    tuned = of_bases[:, OF] + differences
    rows = pd.DataFrame({
        "model": np.tile(BASES + TUNED, n), "dataset": np.repeat(names(n), len(SIZES) + len(OF)), "protocol": "",
        "target": "all", "metric": "pearson_r", "score": np.hstack([of_bases, tuned]).ravel(),
    })  # fmt: skip
    models = pd.DataFrame(
        {"family": "x", "base": [""] * len(SIZES) + [BASES[k] for k in OF], "pair_source": "", "is_main": True},
        index=pd.Index(BASES + TUNED, name="model"),
    )
    return scores.of_frames("null data", rows, models, brain=set())


def names(n: int) -> list[str]:
    """Of the data sets."""
    return [f"null{k}" for k in range(n)]


def misses(found: pd.DataFrame, low: str, high: str) -> np.ndarray:
    """Whether the interval leaves out 0."""
    return ((found[low] > 0) | (found[high] < 0)).to_numpy()


if __name__ == "__main__":
    main()
