"""Layers that the papers introduced, as small modules."""
