"""Other libraries' weights: read without running anything in them, renamed to ours, checked before a single value is copied."""

from convatlas.interop.import_classifier import import_classifier
from convatlas.interop.load_weights import load_weights

__all__ = ["import_classifier", "load_weights"]
