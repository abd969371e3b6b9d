"""Evaluation protocols and metrics, for any function from images to logits."""

from convatlas.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
