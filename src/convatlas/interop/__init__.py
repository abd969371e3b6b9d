"""Other libraries' weights: read without running anything in them, renamed to ours, checked before a single value is copied."""

from convatlas.interop.importing import import_classifier
from convatlas.interop.weights import load_weights

__all__ = ["import_classifier", "load_weights"]
