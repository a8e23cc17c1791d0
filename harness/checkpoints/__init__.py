"""A name or folder -> a checkpoint of a known revision: the Hub, configurations, tokenizers, the weights' files."""
