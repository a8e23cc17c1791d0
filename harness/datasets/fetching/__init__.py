"""Published files of data sets: downloaded, checked, resumed."""
