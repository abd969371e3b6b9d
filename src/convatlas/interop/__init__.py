"""Weights of other libraries: read without executing code from them, renamed to the names here, and checked
before a single value is copied."""

from convatlas.interop.import_classifier import import_classifier
from convatlas.interop.load_weights import load_weights

__all__ = ["import_classifier", "load_weights"]
