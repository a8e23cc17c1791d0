"""Brain-alignment harness: scores language models against brain recordings and reading times."""
