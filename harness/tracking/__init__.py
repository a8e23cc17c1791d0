"""Experiment trackers: the scores, figures and tables of a run in MLflow or Weights & Biases."""
