"""Features without a language model: controls, word vectors, n-grams; and what is made of features afterwards."""
