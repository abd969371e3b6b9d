"""Receptive fields: intervals of input pixels, and a rule for every ATen operator."""
