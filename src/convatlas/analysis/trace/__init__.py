"""One forward on meta tensors, recorded operator by operator."""
