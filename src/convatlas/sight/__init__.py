"""Seeing what a network sees: Grad-CAM, deconvolution, first-layer filters, strongest activations."""

from convatlas.sight.deconvolution import reconstruct
from convatlas.sight.filters import first_filters
from convatlas.sight.grad_cam import grad_cam
from convatlas.sight.maps import last_maps
from convatlas.sight.strongest import Activation, strongest

__all__ = ["Activation", "first_filters", "grad_cam", "last_maps", "reconstruct", "strongest"]
