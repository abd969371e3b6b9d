"""timm's names for our tensors."""

import re
from collections.abc import Callable

from torch import nn

from convatlas.interop import torchvision


def senet(key: str, model: nn.Module) -> str:
    """The `legacy_` networks."""
    key = re.sub(r"^conv1_(\d)\.(conv|norm)\.", lambda m: f"layer0.{'conv' if m[2] == 'conv' else 'bn'}{m[1]}.", key)
    key = torchvision.resnet(key, model).replace(".function.se.", ".se_module.")
    return re.sub(r"^fc\.", "last_linear.", re.sub(r"^(conv1|bn1)\.", r"layer0.\1.", key))


NAMES: dict[str, Callable[[str, nn.Module], str]] = {
    **{f"resnet{n}": torchvision.resnet for n in (18, 34, 50, 101, 152)},
    "inception_v3": torchvision.inception_v3,
    **{f"se_resnet{n}": senet for n in (50, 101, 152)},
    "senet154": senet,
}
