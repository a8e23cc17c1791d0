"""The report of a run: its tables as one self-contained HTML page, Markdown or LaTeX."""
