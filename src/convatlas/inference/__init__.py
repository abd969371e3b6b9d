"""Engines, export and quantisation: a trained network as fast as the machine can, and in everyone's formats."""

import functools

from convatlas.classifier import classifier
from convatlas.inference.selection import ENGINES as ENGINES
from convatlas.inference.selection import Engine as Engine
from convatlas.inference.selection import engine as engine

load = functools.partial(classifier.load, engines=engine)
