"""The board: all models on all data sets under all protocols, of the runs in one or many OUTs, as a static site."""
