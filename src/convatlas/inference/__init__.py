"""Engines: a trained network as fast as the machine can run it."""

from convatlas.inference.selection import ENGINES, Engine, engine

__all__ = ["ENGINES", "Engine", "engine"]
