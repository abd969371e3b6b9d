"""Speed benchmarks: rows of ConvAtlas beside rows of the libraries that a user would run otherwise."""
