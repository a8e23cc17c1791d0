"""Units of work that are computed, stored and resumed as a whole: features, scores, ceilings, word surprisals."""
