"""One forward pass on meta tensors, recorded operator by operator."""
