"""The tables of a run -> one page that needs no network, Markdown or LaTeX."""
