"""Visualizations of a network: Grad-CAM, deconvolution, first-layer filters, top activations, intermediate
outputs."""

from convatlas.visualization.deconvolution import deconv_reconstruct
from convatlas.visualization.feature_maps import last_conv_layer
from convatlas.visualization.features import features
from convatlas.visualization.filters import first_filters
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.top_activations import Activation, top_activations

__all__ = [
    "Activation",
    "deconv_reconstruct",
    "features",
    "first_filters",
    "grad_cam",
    "last_conv_layer",
    "top_activations",
]
