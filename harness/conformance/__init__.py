"""The harness's figures against recorded vectors of other programs."""
