"""When scores would end after extraction, and which fit in no node."""

import json
from dataclasses import replace

import pytest

from harness.cli.commands import main
from harness.cluster import scoring_view
from harness.cluster.machines import Cluster
from harness.cluster.scoring import Held, ScoringDemand, schedule

GPUS = replace(Cluster.made_up(1, 4, 80, 100), fit_flops=10.0, core_flops=1.0)
SCORE = ScoringDemand("m", "r", "strict", "dual", 0.0, 5.0, 1, 1e9)
CEILING = replace(SCORE, model="", alone=30.0)


def by_model(demands):
    return {demand.model: demand for demand in demands}


def test_a_score_waits_for_its_extraction_and_its_ceiling():
    alone = by_model(schedule([SCORE], [Held("m", 0.0, 20.0, 1)], GPUS))
    assert alone["m"].end_s == 25.0
    both = by_model(schedule([SCORE, CEILING], [Held("m", 0.0, 20.0, 1)], GPUS))
    assert both[""].end_s == 30.0
    assert both["m"].end_s == 35.0


def test_divided_fits_run_on_the_gpus_that_no_model_holds():
    fits = replace(SCORE, divided=400.0, alone=0.0, n_pieces=8)
    assert schedule([fits], [], GPUS)[0].end_s == 10.0
    assert schedule([replace(fits, n_pieces=2)], [], GPUS)[0].end_s == 20.0
    # Half of the GPUs until 15 s, which is 100 of 200 operations from 10 s on, then all of them.
    held = [Held("m", 0.0, 10.0, 4), Held("other", 0.0, 15.0, 2)]
    assert schedule([replace(fits, divided=200.0)], held, GPUS)[0].end_s == 17.5


def test_without_gpus_fits_are_divided_over_cores():
    cores = replace(GPUS, nodes=(replace(GPUS.nodes[0], n_gpus=0, n_cpus=5),))
    assert schedule([replace(SCORE, divided=40.0, alone=0.0, n_pieces=8)], [], cores)[0].end_s == 8.0


def test_memory_limits_how_many_scores_run_at_a_time():
    scores = [replace(SCORE, model=str(k), n_bytes=40e9) for k in range(4)]
    assert max(score.end_s for score in schedule(scores, [], GPUS)) == 10.0  # two beside each other in 90 GB
    assert max(score.end_s for score in schedule([replace(s, n_bytes=1e9) for s in scores], [], GPUS)) == 5.0


def test_what_fits_in_no_node_is_refused_and_the_others_go_on():
    too_large = replace(SCORE, model="big", n_bytes=200e9, advice="It would fit with --protocol equal.")
    result = by_model(schedule([SCORE, too_large], [], GPUS))
    assert not result["m"].refused
    assert "about 200.0 GB" in result["big"].refused
    assert "a node has 100.0 GB. It would fit with --protocol equal." in result["big"].refused
    ceiling = replace(CEILING, n_bytes=200e9)
    assert all(demand.refused for demand in schedule([SCORE, ceiling], [], GPUS))


def test_a_run_lists_what_takes_a_minute_or_two_gigabytes():
    assert scoring_view.in_words([replace(SCORE, end_s=30.0)]) == []
    (line,) = scoring_view.in_words([replace(CEILING, end_s=60.0), replace(SCORE, start_s=60.0, end_s=240.0)])
    assert line == (
        "forecast r strict: about 4 min to score 2 sources, of which ceilings 1 min; "
        "at most 1.0 GB of memory (ceilings)"
    )


def plan(capsys, *arguments):
    four_nodes = ["--nodes", "4", "--gpus-per-node", "8", "--gpu-memory-gb", "80"]
    status = main(["plan", "scale", "--model", "llama-2-7b", *four_nodes, *arguments])
    return status, capsys.readouterr()


def test_a_long_recording_of_many_voxels_is_planned_with_its_scoring(capsys):
    size = ("--recording", "lebel2023:3x9000x80000", "--protocol", "strict", "--json")
    status, printed = plan(capsys, "--node-memory-gb", "1000", *size)
    document = json.loads(printed.out)
    ceiling, score = document["scoring"]
    assert status == 0
    assert document["makespan_s"] == score["end_s"] > ceiling["end_s"] > document["extraction_s"] > 0
    assert score["way"] == "dual"  # 4,000 columns, delayed four times, are more than 9,000 rows
    assert score["divided"] > 1e16
    status, printed = plan(capsys, "--node-memory-gb", "64", *size)
    refused = [demand["refused"] for demand in json.loads(printed.out)["scoring"]]
    assert status == 1
    assert "It would fit with" in refused[0]


@pytest.mark.parametrize(("text", "message"), [
    ("lebel2023", "wanted NAME:SUBJECTSxROWSxNEUROIDS"), ("lebel2023:3x9000", "wanted NAME"),
    ("nothing:1x100x5", "nothing"), ("natural-stories:1x100x5", "natural-stories"),
])  # fmt: skip
def test_a_recording_of_another_form_is_refused(capsys, text, message):
    status, printed = plan(capsys, "--recording", text)
    assert status == 2
    assert message in printed.err
