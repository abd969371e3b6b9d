"""pytorchcv's names of the networks' tensors."""

import re

from torch import nn

from convatlas.interop.key_mapping import KeyMapping


def _rename_unit(match: re.Match[str]) -> str:
    return f"features.stage{int(match[1]) - 1}.unit{int(match[2]) + 1}."


def _stem(model: nn.Module) -> str:
    return "features.init_block." if _is_cifar(model) else "features.init_block.conv."


def _is_cifar(model: nn.Module) -> bool:
    return "maxpool" not in model._modules


def resnet(key: str, model: nn.Module) -> str:
    key = key.replace(".function.se.fc", ".se.conv")
    key = re.sub(r"^conv1\.", _stem(model), key)
    key = re.sub(r"^conv([2-5])_x\.(\d+)\.", _rename_unit, key)
    key = (
        key.replace(".function.", ".body.").replace(".shortcut.", ".identity_conv.").replace(".norm.", ".bn.")
    )
    return re.sub(r"^fc\.", "output.", key)


def resnet_v2(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.", _stem(model), key)
    key = re.sub(r"^norm1\.", "features.init_block.bn.", key)
    key = re.sub(r"^conv([2-5])_x\.(\d+)\.", _rename_unit, key)
    key = key.replace(".before.norm.", ".body.conv1.bn.").replace(".shortcut.", ".identity_conv.")
    key = re.sub(r"\.function\.conv(\d)\.", r".body.conv\1.conv.", key)
    # pytorchcv's unit contains the norm before each convolution, ours the norm after it
    key = re.sub(r"\.function\.norm(\d)\.", lambda m: f".body.conv{int(m[1]) + 1}.bn.", key)
    key = re.sub(r"^final\.norm\.", "features.post_activ.bn.", key)
    return re.sub(r"^fc\.", "output.", key)


def bn_inception(key: str, model: nn.Module) -> str:
    for name, pytorchcv_name in _BN_INCEPTION_STEM.items():
        if key.startswith(name):
            parameter_path = key.removeprefix(name)
            return f"features.init_block.{pytorchcv_name}{parameter_path}".replace(".norm.", ".bn.")
    match = re.match(r"inception_(\w+)\.branch_(1x1|3x3|double_3x3|pool)\.(.*)", key)
    if match is None:
        return key.replace("linear.", "output.")
    unit, branch, parameter_path = match.groups()
    stage, units = next((stage, units) for stage, units in _BN_INCEPTION_STAGES.items() if unit in units)
    number = _BN_INCEPTION_BRANCHES[branch] - (unit in ("3c", "4e"))  # reductions have no 1x1 branch
    if branch == "pool":
        parameter_path = parameter_path.replace("1.", "conv.", 1)
    elif branch != "1x1":
        parameter_path = re.sub(r"^(\d)\.", lambda m: f"conv{int(m[1]) + 1}.", parameter_path)
    path = f"features.stage{stage}.unit{units.index(unit) + 1}.branches.branch{number}.{parameter_path}"
    return path.replace(".norm.", ".bn.")


_BN_INCEPTION_STEM = {"conv1.": "conv1.", "conv2_reduce.": "conv2.conv1.", "conv2.": "conv2.conv2."}
_BN_INCEPTION_STAGES = {1: ["3a", "3b"], 2: ["3c", "4a", "4b", "4c", "4d"], 3: ["4e", "5a", "5b"]}
_BN_INCEPTION_BRANCHES = {"1x1": 1, "3x3": 2, "double_3x3": 3, "pool": 4}


def mobilenet_v1(key: str, model: nn.Module) -> str:
    key = re.sub(r"^conv1\.", "features.init_block.", key)
    key = re.sub(
        r"^block(\d+)\.(depth|point)wise\.",
        lambda m: f"features.{_MOBILENET_UNITS[int(m[1]) - 1]}.{m[2][0]}w_conv.",
        key,
    )
    return re.sub(r"^fc\.", "output.", key).replace(".norm.", ".bn.")


_MOBILENET_UNITS = [
    f"stage{stage}.unit{unit}"
    for stage, num_units in enumerate((1, 2, 2, 6, 2), start=1)
    for unit in range(1, num_units + 1)
]


def shufflenet_v1(key: str, model: nn.Module) -> str:
    key = re.sub(
        r"^conv1\.(conv|norm)\.", lambda m: f"features.init_block.{'conv' if m[1] == 'conv' else 'bn'}.", key
    )
    key = re.sub(r"^stage(\d)\.(\d+)\.", lambda m: f"features.stage{int(m[1]) - 1}.unit{int(m[2]) + 1}.", key)
    key = re.sub(
        r"\.(?:concat\.)?function\.(\w+)\.(conv|norm)\.",
        lambda m: f".{_SHUFFLENET_LAYERS[m[1]][m[2] == 'norm']}.",
        key,
    )
    return re.sub(r"^fc\.", "output.", key)


_SHUFFLENET_LAYERS = {
    "gconv1": ("compress_conv1", "compress_bn1"),
    "dwconv": ("dw_conv2", "dw_bn2"),
    "gconv2": ("expand_conv3", "expand_bn3"),
}

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR_RESNET = KeyMapping(resnet, ("paper",), CIFAR, input_size=32, resize_size=32)  # with shortcut="B"
_CIFAR_RESNET_V2 = KeyMapping(resnet_v2, ("paper",), CIFAR, input_size=32, resize_size=32)
KEY_MAPPINGS = {
    # pytorchcv's `resnet50` has the strides of the paper, its `resnet50b` those of torchvision: the names and
    # shapes are the same, so the requested edition decides
    **{f"resnet{n}": KeyMapping(resnet, ("paper", "torchvision")) for n in (18, 34, 50, 101, 152)},
    **{f"resnet{n}_cifar": _CIFAR_RESNET for n in (20, 32, 44, 56, 110, 1202)},
    # likewise `preresnet50` fits stride_in="1x1"; `preresnet50b` and the bottlenecks for CIFAR fit "3x3"
    **{f"resnetv2_{n}": KeyMapping(resnet_v2, ("paper",)) for n in (50, 101, 152, 200)},
    # its `preresnet110_cifar10` is none of ours: its first unit adds the input before the activation
    **{f"resnetv2_{n}_cifar": _CIFAR_RESNET_V2 for n in (164, 1001)},
    **{f"se_resnet{n}": KeyMapping(resnet, ("paper",)) for n in (50, 101, 152)},
    "mobilenet_v1": KeyMapping(mobilenet_v1, ("paper",)),
    "bn_inception": KeyMapping(bn_inception, ("pytorchcv",)),
    "shufflenet_v1": KeyMapping(shufflenet_v1, ("pytorchcv",)),
}
