"""pytorchcv's names for our tensors."""

import re

from torch import nn

from convatlas.interop.key_mapping import KeyMapping


def _unit(match: re.Match[str]) -> str:
    return f"features.stage{int(match[1]) - 1}.unit{int(match[2]) + 1}."


def resnet(key: str, model: nn.Module) -> str:
    key = key.replace(".function.se.fc", ".se.conv")
    stem = "features.init_block." if _for_cifar(model) else "features.init_block.conv."
    key = re.sub(r"^conv1\.", stem, key)
    key = re.sub(r"^conv([2-5])_x\.(\d+)\.", _unit, key)
    return re.sub(
        r"^fc\.", "output.", key.replace(".function.", ".body.").replace(".shortcut.", ".identity_conv.").replace(".norm.", ".bn.")
    )


def resnet_v2(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.", "features.init_block." if _for_cifar(model) else "features.init_block.conv.", key)
    key = re.sub(r"^norm1\.", "features.init_block.bn.", key)
    key = re.sub(r"^conv([2-5])_x\.(\d+)\.", _unit, key)
    key = key.replace(".before.norm.", ".body.conv1.bn.").replace(".shortcut.", ".identity_conv.")
    key = re.sub(r"\.function\.conv(\d)\.", r".body.conv\1.conv.", key)
    key = re.sub(r"\.function\.norm(\d)\.", lambda m: f".body.conv{int(m[1]) + 1}.bn.", key)  # there each norm belongs to what follows
    return re.sub(r"^fc\.", "output.", re.sub(r"^final\.norm\.", "features.post_activ.bn.", key))


def _for_cifar(model: nn.Module) -> bool:
    return "maxpool" not in model._modules


def bn_inception(key: str, model: nn.Module) -> str:
    for ours, theirs in (("conv1.", "conv1."), ("conv2_reduce.", "conv2.conv1."), ("conv2.", "conv2.conv2.")):
        if key.startswith(ours):
            return f"features.init_block.{theirs}{key.removeprefix(ours)}".replace(".norm.", ".bn.")
    found = re.match(r"inception_(\w+)\.branch_(1x1|3x3|double_3x3|pool)\.(.*)", key)
    if found is None:
        return key.replace("linear.", "output.")
    name, branch, rest = found.groups()
    stage, units = next((s, units) for s, units in _STAGES.items() if name in units)
    number = _BRANCHES[branch] - (name in ("3c", "4e"))  # reductions have no 1x1 branch
    if branch == "pool":
        rest = rest.replace("1.", "conv.", 1)
    elif branch != "1x1":
        rest = re.sub(r"^(\d)\.", lambda m: f"conv{int(m[1]) + 1}.", rest)
    return f"features.stage{stage}.unit{units.index(name) + 1}.branches.branch{number}.{rest}".replace(".norm.", ".bn.")


_STAGES = {1: ["3a", "3b"], 2: ["3c", "4a", "4b", "4c", "4d"], 3: ["4e", "5a", "5b"]}
_BRANCHES = {"1x1": 1, "3x3": 2, "double_3x3": 3, "pool": 4}


def mobilenet_v1(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.", "features.init_block.", key)
    key = re.sub(r"^block(\d+)\.(depth|point)wise\.", lambda m: f"features.{_MOBILENET[int(m[1]) - 1]}.{m[2][0]}w_conv.", key)
    return re.sub(r"^fc\.", "output.", key).replace(".norm.", ".bn.")


_MOBILENET = [f"stage{stage}.unit{unit}" for stage, units in enumerate((1, 2, 2, 6, 2), start=1) for unit in range(1, units + 1)]


def shufflenet_v1(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.(conv|norm)\.", lambda m: f"features.init_block.{'conv' if m[1] == 'conv' else 'bn'}.", key)
    key = re.sub(r"^stage(\d)\.(\d+)\.", lambda m: f"features.stage{int(m[1]) - 1}.unit{int(m[2]) + 1}.", key)
    names = {"gconv1": ("compress_conv1", "compress_bn1"), "dwconv": ("dw_conv2", "dw_bn2"), "gconv2": ("expand_conv3", "expand_bn3")}
    key = re.sub(r"\.(?:concat\.)?function\.(\w+)\.(conv|norm)\.", lambda m: f".{names[m[1]][m[2] == 'norm']}.", key)
    return re.sub(r"^fc\.", "output.", key)


CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
KEY_MAPPINGS = {
    # `resnet50` has the paper's strides, `resnet50b` torchvision's: the same names and shapes, so the edition asked for decides
    **{f"resnet{n}": KeyMapping(resnet, ("paper", "torchvision")) for n in (18, 34, 50, 101, 152)},
    **{f"resnet{n}_cifar": KeyMapping(resnet, ("paper",), CIFAR, size=32, shorter=32) for n in (20, 32, 44, 56, 110, 1202)},  # shortcut="B"
    # likewise `preresnet50` goes with stride_in="1x1", `preresnet50b` and the bottlenecks for CIFAR with "3x3"
    **{f"resnetv2_{n}": KeyMapping(resnet_v2, ("paper",)) for n in (50, 101, 152, 200)},
    **{f"resnetv2_{n}_cifar": KeyMapping(resnet_v2, ("paper",), CIFAR, size=32, shorter=32) for n in (110, 164, 1001)},
    **{f"se_resnet{n}": KeyMapping(resnet, ("paper",)) for n in (50, 101, 152)},
    "mobilenet_v1": KeyMapping(mobilenet_v1, ("paper",)),
    "bn_inception": KeyMapping(bn_inception, ("pytorchcv",)),
    "shufflenet_v1": KeyMapping(shufflenet_v1, ("pytorchcv",)),
}
