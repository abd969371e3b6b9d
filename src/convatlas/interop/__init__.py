"""Other libraries' weights: read without running anything in them, renamed to ours, checked before a single value is copied."""

from convatlas.interop.weights import load_weights

__all__ = ["load_weights"]
