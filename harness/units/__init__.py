"""What is computed and stored by itself: features, scores, ceilings, corpora, word surprisals."""
