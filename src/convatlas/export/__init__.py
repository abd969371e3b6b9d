"""Classifiers in other formats: ONNX, OpenVINO, int8, safetensors, the Hugging Face Hub."""
