"""MLflow: a run of the tables is a run in an experiment, found again by its tag, so that it is updated when sent again.

The experiment is MLFLOW_EXPERIMENT_NAME, the server MLFLOW_TRACKING_URI, as MLflow reads them.

Source: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html
"""

from __future__ import annotations

import os
import time
from typing import Any

from harness.tracking.contents import Content

EXPERIMENT = "brain-alignment"
_TAG = "harness.run"
_PER_REQUEST = {"metrics": 1000, "params": 100, "tags": 100}  # limits of MLflow's log_batch
_LONGEST_PARAM, _LONGEST_TAG = 6000, 5000


def send(content: Content) -> str:
    """Log a run; returns where it is found."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient()
    run_id = _run_of(client, content.run)
    logged = client.get_run(run_id).data.params  # MLflow lets no parameter be changed
    now = int(time.time() * 1000)
    entities: dict[str, list[Any]] = {
        "metrics": [Metric(name, value, now, 0) for name, value in content.scores.items()],
        "params": [
            Param(name, value[:_LONGEST_PARAM]) for name, value in content.settings.items() if name not in logged
        ],
        "tags": [RunTag(name, value[:_LONGEST_TAG]) for name, value in content.facts.items()],
    }
    for kind, several in entities.items():
        for start in range(0, len(several), _PER_REQUEST[kind]):
            client.log_batch(run_id, **{kind: several[start : start + _PER_REQUEST[kind]]})
    client.log_artifacts(run_id, str(content.folder))
    client.set_terminated(run_id)
    return f"run {content.run} of experiment {_experiment()}, {client.tracking_uri}"


def _experiment() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _run_of(client: Any, run: str) -> str:
    """Id of the run with the tag, which is made if there is none."""
    experiment = client.get_experiment_by_name(_experiment())
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(_experiment())
    earlier = client.search_runs([experiment_id], filter_string=f"tags.`{_TAG}` = '{run}'", max_results=1)
    return str((earlier or [client.create_run(experiment_id, run_name=run, tags={_TAG: run})])[0].info.run_id)
