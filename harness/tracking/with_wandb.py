"""Weights & Biases: a run of the tables is a run of a project, with the same id, so that it is updated when sent again.

The project is WANDB_PROJECT; WANDB_MODE=offline writes into WANDB_DIR, to be sent by `wandb sync`.

Source: https://docs.wandb.ai/ref/python
"""

from __future__ import annotations

import os

from harness.tracking.contents import Content

PROJECT = "brain-alignment"
_SHOWN = ("model_scores", "reading_scores", "paired_tests", "comparisons", "failures")


def send(content: Content) -> str:
    """Log a run; returns where it is found."""
    import pandas as pd
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT, id=content.run, name=content.run, resume="allow",
        job_type="evaluation", config={**content.settings, **content.facts}, reinit="create_new",
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True),
    )  # fmt: skip
    with run:  # marks the run as failed if an exception leaves it
        run.summary.update(content.scores)
        media = {f"figures/{path.stem}": wandb.Html(path.read_text()) for path in content.folder.glob("figures/*.svg")}
        for path in sorted(content.folder.glob("tables/*.parquet")):
            if path.stem in _SHOWN:
                media[f"tables/{path.stem}"] = wandb.Table(dataframe=pd.read_parquet(path))
        run.log(media)
        artifact = wandb.Artifact(f"{content.run}-files", type="evaluation")
        artifact.add_dir(str(content.folder))
        run.log_artifact(artifact)
    return str(run.url or f"{run.dir} (offline; send it with `wandb sync`)")
