"""Receptive fields: intervals of pixels, and a rule for every operator."""
