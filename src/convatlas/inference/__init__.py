"""Engines, export and quantisation: a trained network as fast as the machine can, and in everyone's formats."""

import functools

from convatlas import classifier
from convatlas.inference.choosing import ENGINES as ENGINES
from convatlas.inference.choosing import Engine as Engine
from convatlas.inference.choosing import engine as engine

load = functools.partial(classifier.load, engines=engine)
