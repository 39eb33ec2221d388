"""Data that the package's networks are trained and checked on, read from where the user's system keeps it.

No data set is part of the package; the files beside this one are weights that the package's own scripts trained.
"""
