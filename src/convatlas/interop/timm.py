"""timm's names of the networks' tensors."""

import re

from torch import nn

from convatlas.interop import torchvision
from convatlas.interop.key_mapping import HALF, KeyMapping


def senet(key: str, model: nn.Module) -> str:
    """The `legacy_` networks."""
    key = re.sub(
        r"^conv1_(\d)\.(conv|norm)\.", lambda m: f"layer0.{'conv' if m[2] == 'conv' else 'bn'}{m[1]}.", key
    )
    key = torchvision.resnet(key, model).replace(".function.se.", ".se_module.")
    key = re.sub(r"^(conv1|bn1)\.", r"layer0.\1.", key)
    return re.sub(r"^fc\.", "last_linear.", key)


def mobilenet_v1(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.(conv|norm)\.", lambda m: {"conv": "conv_stem.", "norm": "bn1."}[m[1]], key)
    key = re.sub(r"^block(\d+)\.", lambda m: _MOBILENET_BLOCKS[int(m[1]) - 1], key)
    key = key.replace(".depthwise.conv.", ".conv_dw.").replace(".depthwise.norm.", ".bn1.")
    key = key.replace(".pointwise.conv.", ".conv_pw.").replace(".pointwise.norm.", ".bn2.")
    return re.sub(r"^fc\.", "classifier.", key)


_MOBILENET_BLOCKS = [
    f"blocks.{stage}.{block}."
    for stage, num_blocks in enumerate((1, 2, 2, 6, 2))
    for block in range(num_blocks)
]


def xception(key: str, model: nn.Module) -> str:
    """In timm the layers of the first and the last block belong to the network itself, and the other blocks
    are counted from 1."""
    match = re.match(r"\w+_flow\.block(\d+)\.(\w+)\.(.+)", key)
    if match is None:
        return key
    block = int(match[1])
    layer, parameter_path = match[2], match[3]
    if block in (1, 14):
        number = int(layer[-1]) + (2 if block == 14 else 0)
        names = {
            "conv.": f"conv{number}.",
            "norm.": f"bn{number}.",
            "depthwise.": f"conv{number}.conv1.",
            "pointwise.": f"conv{number}.pointwise.",
        }
        return re.sub(r"^\w+\.", lambda m: names[m[0]], parameter_path)
    if layer == "shortcut":
        return f"block{block - 1}." + parameter_path.replace("conv.", "skip.").replace("norm.", "skipbn.")
    sepconv, part, parameter = parameter_path.split(".")
    # ReLU, separable convolution, norm; block 2 lacks the first ReLU
    position = 3 * int(sepconv[-1]) - 2 - (block == 2)
    module = {
        "depthwise": f"{position}.conv1",
        "pointwise": f"{position}.pointwise",
        "norm": f"{position + 1}",
    }[part]
    return f"block{block - 1}.rep.{module}.{parameter}"


KEY_MAPPINGS = {
    **{f"resnet{n}": KeyMapping(torchvision.resnet, ("paper", "torchvision")) for n in (18, 34)},
    **{f"resnet{n}": KeyMapping(torchvision.resnet, ("torchvision",)) for n in (50, 101, 152)},
    "inception_v3": KeyMapping(
        torchvision.inception_v3, ("torchvision",), HALF, input_size=299, resize_size=342
    ),
    **{f"se_resnet{n}": KeyMapping(senet, ("timm",)) for n in (50, 101, 152)},
    "senet154": KeyMapping(senet, ("timm",)),
    "mobilenet_v1": KeyMapping(mobilenet_v1, ("timm",), HALF),
    "xception": KeyMapping(xception, ("paper", "timm"), HALF, input_size=299, resize_size=333),
}
