"""A trained network with its classes, preprocessing and provenance, ready to classify images."""

from convatlas.classifier.classifier import Classifier
from convatlas.classifier.model_file import FORMAT, ClassifierMetadata, write_model_file
from convatlas.classifier.open_classifier import load

__all__ = ["FORMAT", "Classifier", "ClassifierMetadata", "load", "write_model_file"]
