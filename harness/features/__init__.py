"""Controls, word vectors and n-grams, and the conversion of features to scans and principal components."""
