"""Protocols and metrics, over any callable from images to logits."""

from convatlas.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
