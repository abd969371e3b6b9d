"""Image files: decoding, resizing, prefetching."""
