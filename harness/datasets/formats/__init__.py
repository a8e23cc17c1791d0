"""Published file formats of recordings: netCDF, pickles, the tables of Natural Stories."""
