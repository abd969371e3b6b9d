"""Looking at a data set before a network does: checks, statistics, splits, packing."""
