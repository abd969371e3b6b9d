"""torchvision's names for our tensors."""

import re

from torch import nn

from convatlas.interop.key_mapping import HALF, KeyMapping, RenameFn


def _sequence(classifier: dict[str, int]) -> RenameFn:
    """AlexNet and VGG there: `features` and `classifier` are numbered, ours bear the paper's names."""

    def rename(key: str, model: nn.Module) -> str:
        layer, parameter = key.split(".", 1)
        if layer in classifier:
            return f"classifier.{classifier[layer]}.{parameter}"
        return f"features.{list(model._modules).index(layer)}.{parameter}"

    return rename


def resnet(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.(conv|norm)\.", lambda m: {"conv": "conv1.", "norm": "bn1."}[m[1]], key)
    key = re.sub(r"^conv([2-5])_x\.", lambda m: f"layer{int(m[1]) - 1}.", key)
    key = re.sub(r"\.function\.conv(\d)\.conv\.", r".conv\1.", key)
    key = re.sub(r"\.function\.conv(\d)\.norm\.", r".bn\1.", key)
    return key.replace(".shortcut.conv.", ".downsample.0.").replace(".shortcut.norm.", ".downsample.1.")


def googlenet(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv2_reduce\.", "conv2.", key) if key.startswith("conv2_reduce.") else re.sub(r"^conv2\.", "conv3.", key)
    key = re.sub(r"^inception_(\d\w)\.branch_(1x1|3x3|5x5|pool)\.", lambda m: f"inception{m[1]}.branch{_BRANCH[m[2]]}.", key)
    return key.replace("linear.", "fc.").replace(".norm.", ".bn.")


_BRANCH = {"1x1": 1, "3x3": 2, "5x5": 3, "pool": 4}


def inception_v3(key: str, model: nn.Module) -> str:
    if key.startswith(("logits.", "aux.")):
        for ours, theirs in (("aux.conv1.", "AuxLogits.conv0."), ("aux.conv2.", "AuxLogits.conv1."), ("aux.logits.", "AuxLogits.fc.")):
            key = key.replace(ours, theirs)
        return re.sub(r"^logits\.", "fc.", key).replace(".norm.", ".bn.")
    key = re.sub(r"\.(\d)\.branch_(1x3|3x1)\.", lambda m: f"_{int(m[1]) + 1}{'a' if m[2] == '1x3' else 'b'}.", key)
    key = key.replace("branch_pool.1.", "branch_pool.").replace("branch_1x1.0.", "branch1x1.")
    key = re.sub(r"Mixed_6a\.branch_3x3\.0\.", "Mixed_6a.branch3x3.", key)
    for ours, theirs in (("branch_double_7x7", "branch7x7dbl"), ("branch_7x7_3x3", "branch7x7x3"), ("branch_double_3x3", "branch3x3dbl")):
        key = key.replace(ours, theirs)
    key = re.sub(r"branch_(3x3|5x5|7x7)", r"branch\1", key)
    key = re.sub(r"(branch\w+)\.(\d)\.", lambda m: f"{m[1]}_{int(m[2]) + 1}.", key)
    return key.replace(".norm.", ".bn.")


def shufflenet_v2(key: str, model: nn.Module) -> str:
    places = {"shortcut": {"dwconv": 0, "conv": 2}, "function": {"conv1": 0, "dwconv": 3, "conv2": 5}}
    key = re.sub(r"^(conv[15])\.(conv|norm)\.", lambda m: f"{m[1]}.{int(m[2] == 'norm')}.", key)
    return re.sub(
        r"\.halves\.(shortcut|function)\.(\w+)\.(conv|norm)\.",
        lambda m: f".branch{1 if m[1] == 'shortcut' else 2}.{places[m[1]][m[2]] + (m[3] == 'norm')}.",
        key,
    )


BOTH, THEIRS = ("paper", "torchvision"), ("torchvision",)
KEY_MAPPINGS = {
    "alexnet": KeyMapping(_sequence({"fc6": 1, "fc7": 4, "fc8": 6}), THEIRS),
    **{f"vgg{n}{norm}": KeyMapping(_sequence({"fc6": 0, "fc7": 3, "fc8": 6}), BOTH) for n in (11, 13, 16, 19) for norm in ("", "_bn")},
    **{f"resnet{n}": KeyMapping(resnet, BOTH) for n in (18, 34)},
    **{f"resnet{n}": KeyMapping(resnet, THEIRS) for n in (50, 101, 152)},
    "googlenet": KeyMapping(googlenet, THEIRS, HALF),  # its weights came from TensorFlow, and `transform_input` undoes the usual statistics
    "inception_v3": KeyMapping(inception_v3, THEIRS, HALF, size=299, shorter=342),
    "shufflenet_v2": KeyMapping(shufflenet_v2, BOTH),
}
