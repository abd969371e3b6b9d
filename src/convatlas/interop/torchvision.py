"""torchvision's names for our tensors."""

import re
from collections.abc import Callable

from torch import nn


def _sequence(classifier: dict[str, int]) -> Callable[[str, nn.Module], str]:
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


NAMES: dict[str, Callable[[str, nn.Module], str]] = {
    "alexnet": _sequence({"fc6": 1, "fc7": 4, "fc8": 6}),
    **{f"vgg{n}{norm}": _sequence({"fc6": 0, "fc7": 3, "fc8": 6}) for n in (11, 13, 16, 19) for norm in ("", "_bn")},
    **{f"resnet{n}": resnet for n in (18, 34, 50, 101, 152)},
}
