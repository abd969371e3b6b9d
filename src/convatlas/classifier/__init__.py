"""The saved thing: a trained network with its classes, preprocessing and provenance, and what it is for: to classify images."""

from convatlas.classifier.classifier import Classifier as Classifier
from convatlas.classifier.classifier import load as load
from convatlas.classifier.model_file import FORMAT as FORMAT
from convatlas.classifier.model_file import ClassifierMetadata as ClassifierMetadata
from convatlas.classifier.model_file import write_model_file as write_model_file
