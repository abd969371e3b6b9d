"""torchvision's names of the networks' tensors."""

import re

from torch import nn

from convatlas.interop.key_mapping import HALF, KeyMapping, RenameFn


def _sequential(linear_layers: dict[str, int]) -> RenameFn:
    """AlexNet and VGG: torchvision numbers the layers of `features` and `classifier`, which here have the
    names of the paper. `linear_layers` are the numbers in `classifier`."""

    def rename(key: str, model: nn.Module) -> str:
        layer, parameter = key.split(".", 1)
        if layer in linear_layers:
            return f"classifier.{linear_layers[layer]}.{parameter}"
        return f"features.{list(model._modules).index(layer)}.{parameter}"

    return rename


def resnet(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.(conv|norm)\.", lambda m: {"conv": "conv1.", "norm": "bn1."}[m[1]], key)
    key = re.sub(r"^conv([2-5])_x\.", lambda m: f"layer{int(m[1]) - 1}.", key)
    key = re.sub(r"\.function\.conv(\d)\.conv\.", r".conv\1.", key)
    key = re.sub(r"\.function\.conv(\d)\.norm\.", r".bn\1.", key)
    return key.replace(".shortcut.conv.", ".downsample.0.").replace(".shortcut.norm.", ".downsample.1.")


def googlenet(key: str, model: nn.Module) -> str:
    if key.startswith("conv2_reduce."):
        key = re.sub(r"^conv2_reduce\.", "conv2.", key)
    else:
        key = re.sub(r"^conv2\.", "conv3.", key)
    key = re.sub(
        r"^inception_(\d\w)\.branch_(1x1|3x3|5x5|pool)\.",
        lambda m: f"inception{m[1]}.branch{_GOOGLENET_BRANCHES[m[2]]}.",
        key,
    )
    return key.replace("linear.", "fc.").replace(".norm.", ".bn.")


_GOOGLENET_BRANCHES = {"1x1": 1, "3x3": 2, "5x5": 3, "pool": 4}


def inception_v3(key: str, model: nn.Module) -> str:
    if key.startswith(("logits.", "aux.")):
        for name, torchvision_name in _INCEPTION_HEADS.items():
            key = key.replace(name, torchvision_name)
        return re.sub(r"^logits\.", "fc.", key).replace(".norm.", ".bn.")
    key = re.sub(
        r"\.(\d)\.branch_(1x3|3x1)\.",
        lambda m: f"_{int(m[1]) + 1}{'a' if m[2] == '1x3' else 'b'}.",
        key,
    )
    key = key.replace("branch_pool.1.", "branch_pool.").replace("branch_1x1.0.", "branch1x1.")
    key = re.sub(r"Mixed_6a\.branch_3x3\.0\.", "Mixed_6a.branch3x3.", key)
    for name, torchvision_name in _INCEPTION_BRANCHES.items():
        key = key.replace(name, torchvision_name)
    key = re.sub(r"branch_(3x3|5x5|7x7)", r"branch\1", key)
    key = re.sub(r"(branch\w+)\.(\d)\.", lambda m: f"{m[1]}_{int(m[2]) + 1}.", key)
    return key.replace(".norm.", ".bn.")


_INCEPTION_HEADS = {
    "aux.conv1.": "AuxLogits.conv0.",
    "aux.conv2.": "AuxLogits.conv1.",
    "aux.logits.": "AuxLogits.fc.",
}
_INCEPTION_BRANCHES = {
    "branch_double_7x7": "branch7x7dbl",
    "branch_7x7_3x3": "branch7x7x3",
    "branch_double_3x3": "branch3x3dbl",
}


def shufflenet_v2(key: str, model: nn.Module) -> str:
    key = re.sub(r"^(conv[15])\.(conv|norm)\.", lambda m: f"{m[1]}.{int(m[2] == 'norm')}.", key)

    def rename_branch(match: re.Match[str]) -> str:
        path, layer, kind = match.groups()
        number = _SHUFFLENET_LAYERS[path][layer] + (kind == "norm")
        return f".branch{1 if path == 'shortcut' else 2}.{number}."

    return re.sub(r"\.halves\.(shortcut|function)\.(\w+)\.(conv|norm)\.", rename_branch, key)


_SHUFFLENET_LAYERS = {"shortcut": {"dwconv": 0, "conv": 2}, "function": {"conv1": 0, "dwconv": 3, "conv2": 5}}

BOTH_EDITIONS = ("paper", "torchvision")
TORCHVISION_EDITION = ("torchvision",)
_VGG = KeyMapping(_sequential({"fc6": 0, "fc7": 3, "fc8": 6}), BOTH_EDITIONS)
KEY_MAPPINGS = {
    "alexnet": KeyMapping(_sequential({"fc6": 1, "fc7": 4, "fc8": 6}), TORCHVISION_EDITION),
    **{f"vgg{n}{norm}": _VGG for n in (11, 13, 16, 19) for norm in ("", "_bn")},
    **{f"resnet{n}": KeyMapping(resnet, BOTH_EDITIONS) for n in (18, 34)},
    **{f"resnet{n}": KeyMapping(resnet, TORCHVISION_EDITION) for n in (50, 101, 152)},
    # its weights came from TensorFlow, and `transform_input` undoes the usual statistics
    "googlenet": KeyMapping(googlenet, TORCHVISION_EDITION, HALF),
    "inception_v3": KeyMapping(inception_v3, TORCHVISION_EDITION, HALF, input_size=299, resize_size=342),
    "shufflenet_v2": KeyMapping(shufflenet_v2, BOTH_EDITIONS),
}
