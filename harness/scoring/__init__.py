"""Scores from features and responses: folds, fits, ceilings, unique variance, reading times."""
