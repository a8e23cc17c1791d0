import csv

from harness.models import MODELS


def test_the_table_holds_the_papers_models(shared):
    with (shared / "paper" / "models.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == list(MODELS)
    for row in rows:
        entry = MODELS[row["model"]]
        assert (entry.family, entry.tuned_from, entry.n_blocks) == (
            row["family"],
            row["tuned_from"],
            int(row["n_layers"]),
        )
        assert entry.n_parameters_nominal == float(row["n_parameters_nominal"])
