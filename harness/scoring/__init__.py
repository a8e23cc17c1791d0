"""Features and responses -> scores: folds, fits, ceilings, unique variance, reading times."""
