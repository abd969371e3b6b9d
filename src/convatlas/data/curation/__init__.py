"""Tools to inspect and prepare a data set before training: checks, statistics, splits, packing."""
