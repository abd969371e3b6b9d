"""Hugging Face transformers' names of the networks' tensors (`ResNetForImageClassification`)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from convatlas.interop.key_mapping import KeyMapping


def resnet(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.", "resnet.embedder.embedder.", key)
    key = re.sub(
        r"^conv([2-5])_x\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 2}.layers.{m[2]}.", key
    )
    key = re.sub(r"\.function\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.", key)
    key = key.replace(".conv.", ".convolution.").replace(".norm.", ".normalization.")
    return re.sub(r"^fc\.", "classifier.1.", key)


# The stride is in the 3x3 convolution, unless the configuration says otherwise
_BOTTLENECKS = KeyMapping(resnet, ("torchvision",), base_prefix="resnet.")
KEY_MAPPINGS = {
    **{f"resnet{n}": KeyMapping(resnet, ("paper", "torchvision"), base_prefix="resnet.") for n in (18, 34)},
    **{f"resnet{n}": _BOTTLENECKS for n in (50, 101, 152)},
}


def configured(mapping: KeyMapping, config: Mapping[str, Any] | None) -> KeyMapping:
    """The mapping for weights with this config.json: `downsample_in_bottleneck` puts the stride into the
    first 1x1 convolution, where the paper has it."""
    if config and config.get("downsample_in_bottleneck") and mapping is _BOTTLENECKS:
        return replace(mapping, editions=("paper",))
    return mapping
