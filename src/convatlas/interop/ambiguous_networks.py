"""Networks of one library whose tensors have the same names and shapes, and that compute different things.

A file of such weights does not say which of them it is for: an edition or an argument must.
"""

from collections.abc import Mapping

from convatlas.models import Architecture

STRIDES = ("1x1", "3x3")
INPUT_FIELDS = (299, 151, 79)  # of Inception-v2 and v3 for smaller images, with other strides in the stem

_BOTTLENECK_NETWORKS = {
    **{f"se_resnet{n}": f"seresnet{n}" for n in (50, 101, 152)},
    **{f"resnetv2_{n}": f"preresnet{n}" for n in (50, 101, 152, 200)},
}
_CIFAR_BOTTLENECKS = ("resnetv2_164_cifar", "resnetv2_1001_cifar")


def hidden_arguments(source: str, name: str) -> Mapping[str, tuple[str | int, ...]]:
    """The arguments of a network that neither the names nor the shapes of `source`'s tensors show, with the
    values that its networks have."""
    if name in ("inception_v2", "inception_v3"):
        return {"field": INPUT_FIELDS} if source == "convatlas" else {}
    if name.startswith("resnetv2_") and name != "resnetv2_110_cifar" and source == "convatlas":
        return {"stride_in": STRIDES}
    if name in _BOTTLENECK_NETWORKS and source in ("convatlas", "pytorchcv"):
        return {"stride_in": STRIDES}
    # pytorchcv has the bottlenecks for CIFAR in one form
    return {"stride_in": ("3x3",)} if name in _CIFAR_BOTTLENECKS and source == "pytorchcv" else {}


def library_name(source: str, architecture: Architecture) -> str | None:
    """The name that `source` gives to this network among those of the same tensors; None where unknown."""
    if source != "pytorchcv":
        return None
    name = architecture.name
    if name in _BOTTLENECK_NETWORKS:
        return _BOTTLENECK_NETWORKS[name] + "b" * (architecture.arguments["stride_in"] == "3x3")
    if name in ("resnet50", "resnet101", "resnet152"):
        return name + "b" * (architecture.edition == "torchvision")
    return None


# Networks of a library that the atlas does not have and whose tensors nothing tells apart from these
_ABSENT_NETWORKS = {
    ("timm", "resnet18"): ("resnetblur18",),
    ("timm", "resnet50"): ("resnetaa50", "resnetblur50"),
    ("pytorchcv", "resnet20_cifar"): ("resdropresnet20_cifar10", "shakedropresnet20_cifar10"),
}


def assumed_exclusions(source: str, name: str) -> list[str]:
    """What is assumed of weights of this network that could be for another network, in words."""
    sources = ("timm",) if source == "torchvision" else (source,)  # torchvision's ResNets have timm's names
    return [
        f"not {library}'s {' or '.join(_ABSENT_NETWORKS[library, name])}"
        for library in sources
        if (library, name) in _ABSENT_NETWORKS
    ]


def is_known_architecture(architecture: str) -> bool:
    """Whether a network of this name in timm or transformers may be the one that its tensors fit."""
    return not any(architecture in names for names in _ABSENT_NETWORKS.values())
