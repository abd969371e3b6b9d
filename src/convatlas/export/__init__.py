"""Classifiers in other formats: ONNX, OpenVINO, int8, safetensors, the Hugging Face Hub."""

from convatlas.export.formats import to_onnx, to_openvino, to_safetensors
from convatlas.export.request import export_classifier

__all__ = ["export_classifier", "to_onnx", "to_openvino", "to_safetensors"]
