"""Data sets, controls and metrics of another distribution, found by its entry points in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import plugins
from harness.features import controls

ROOT = Path(__file__).resolve().parents[3]
MODULE = '''
"""A small distribution."""
import numpy as np
from harness.datasets.entry import Entry, version_of
from harness.datasets.synthetic import STRICT
from harness.records import Dataset, Responses, Stimuli

TRUTH = np.random.default_rng(1).standard_normal((60, 1))

def load(_):
    ids, passages = tuple(f"s{k}" for k in range(60)), tuple(f"p{k // 5}" for k in range(60))
    stimuli = Stimuli(ids, tuple(f"The old dog sees river {k}." for k in range(60)), passages)
    noise = np.random.default_rng(2).standard_normal((60, 4))
    responses = Responses((noise + 3 * TRUTH).astype(np.float32), ids, passages, passages, ("a", "b", "c", "d"),
                          ("x", "x", "y", "y"), ("",) * 4, "z")
    return Dataset("outside", version_of(stimuli, responses), stimuli, responses)

def entry():
    return Entry("outside", "of another distribution", "brain", "CC0", load, (STRICT,))

def truth(dataset):
    """What the recording follows."""
    return TRUTH

def slope(predicted, observed):
    p, o = predicted - predicted.mean(0), observed - observed.mean(0)
    return (p * o).sum(0) / (p * p).sum(0)
'''
POINTS = """
[harness.datasets]
outside = small_plugin:entry
damaged = small_plugin:absent
[harness.controls]
truth = small_plugin:truth
[harness.metrics]
slope = small_plugin:slope
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment of a process in which the distribution is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "small_plugin.py").write_text(MODULE)
    info = site / "small_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


def run(environment, *arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done


def test_data_set_control_and_metric_are_used(environment, folder):
    script = (
        "from harness import evaluate\n"
        f"found = evaluate({str(folder)!r}, 'outside', 'strict', controls=['truth', 'length'], metric='slope',"
        " variants=(), progress=False)\n"
        "rows = found.model_scores.query('target == \"all\"').set_index('model')\n"
        "print(rows.loc['truth', ['metric', 'r', 'revision']].to_json())"
    )
    row = json.loads(run(environment, "-c", script).stdout.splitlines()[-1])
    assert row["metric"] == "slope"
    assert row["r"] == pytest.approx(1.0, abs=0.15)  # predictions of the truth are neither shrunk nor stretched
    assert row["revision"] == "small-plugin 1.2"


def test_they_are_listed_and_a_damaged_one_is_named_and_left_out(environment):
    done = run(environment, "-m", "harness.cli", "datasets", "--json")
    assert "outside" in [entry["name"] for entry in json.loads(done.stdout)]
    assert "'damaged' of harness.datasets cannot be imported from small-plugin 1.2" in done.stderr
    listed = json.loads(run(environment, "-m", "harness.cli", "controls", "--json").stdout)
    assert {"truth": "What the recording follows."}.items() <= {row["name"]: row["about"] for row in listed}.items()


@pytest.mark.slow
@pytest.mark.ray
def test_they_reach_the_workers_of_ray(environment, folder, tmp_path):
    command = ("-m", "harness.cli", "run", "real", "--dataset", "outside", "--model", str(folder), "--protocol",
               "strict", "--no-untrained", "--control", "truth", "--out", str(tmp_path), "--json")  # fmt: skip
    outcome = json.loads(run(environment, *command).stdout)
    assert outcome["failures"] == []
    from harness import load_scores

    scores = load_scores(tmp_path).model_scores
    assert scores[(scores["model"] == "truth") & (scores["target"] == "all")]["r"].item() > 0.8


def test_given_objects_precede_built_in_ones_only_while_they_are_given():
    own = controls.Control("length", "own", ("words",), compute=len)
    with plugins.given("harness.controls", {"length": plugins.Plugin(own, "v1")}):
        assert controls.find("length").title == "own"
        assert controls.find("length").version == "v1"
    assert controls.find("length").compute is None
