"""Seeing what a network sees: Grad-CAM, deconvolution, first-layer filters, strongest activations."""

from convatlas.visualization.deconvolution import reconstruct
from convatlas.visualization.feature_maps import last_maps
from convatlas.visualization.filters import first_filters
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.top_activations import Activation, strongest

__all__ = ["Activation", "first_filters", "grad_cam", "last_maps", "reconstruct", "strongest"]
