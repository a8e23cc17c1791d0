"""Delimited text files (CSV, TSV and their kin) of users and of other programs -> checked columns of text.

Every table that a user hands in passes here: `encodings` turns bytes into lines, `form` finds out how the file is
written, `table` reads it, `numerals` reads a column of numbers, `identifiers` joins the ids of two tables. A file is
read right or refused in one sentence that names file, line and column; nothing is shifted, merged or dropped silently.
"""
