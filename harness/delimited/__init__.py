"""Reads delimited text files (CSV, TSV and similar) from users and other programs into checked columns of text.

All tables supplied by users go through this package. `encodings` decodes bytes into lines, `form` detects separator and
quoting, `table` reads the columns, `numerals` parses a column of numbers, `identifiers` joins the ids of two tables. A
file is either read correctly or rejected with one sentence that names file, line and column. No cell is silently
shifted, merged or dropped.
"""
