"""Protocols and metrics, over any callable from images to logits."""

from convatlas.evaluation.protocol import evaluate as evaluate
