"""Brain-alignment harness: language models in, scores against brain and reading data out."""
