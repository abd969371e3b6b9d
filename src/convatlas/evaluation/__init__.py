"""Protocols and metrics, over any callable from images to logits."""

from convatlas.evaluation.together import evaluate as evaluate
