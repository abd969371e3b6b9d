"""The weights that torchvision publishes for networks of the atlas, and where.

The files' names end in the first digits of their SHA-256. From torchvision 0.28, `torchvision/models/`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.runtime.progress import track
from convatlas.storage.cache import cache_dir, file_sha256
from convatlas.storage.download import download_file

ADDRESS = "https://download.pytorch.org/models/"
MIRROR_VARIABLE = "CONVATLAS_TORCHVISION_URL"


@dataclass(frozen=True)
class Weights:
    """A published file, and the length to which the shorter side of an image is resized for it."""

    file: str
    resize_size: int = 256
    input_size: int = 224

    @property
    def sha256_start(self) -> str:
        match = re.search(r"-([0-9a-f]{8,})\.pth$", self.file)
        assert match is not None
        return match[1]


def _versions(*files: Weights | str) -> dict[str, Weights]:
    weights = [file if isinstance(file, Weights) else Weights(file) for file in files]
    return {f"IMAGENET1K_V{number}": version for number, version in enumerate(weights, start=1)}


# by torchvision's name; the last version is torchvision's default
WEIGHTS = {
    "alexnet": _versions("alexnet-owt-7be5be79.pth"),
    "vgg11": _versions("vgg11-8a719046.pth"),
    "vgg11_bn": _versions("vgg11_bn-6002323d.pth"),
    "vgg13": _versions("vgg13-19584684.pth"),
    "vgg13_bn": _versions("vgg13_bn-abd245e5.pth"),
    "vgg16": _versions("vgg16-397923af.pth"),
    "vgg16_bn": _versions("vgg16_bn-6c64b313.pth"),
    "vgg19": _versions("vgg19-dcbb9e9d.pth"),
    "vgg19_bn": _versions("vgg19_bn-c79401a0.pth"),
    "resnet18": _versions("resnet18-f37072fd.pth"),
    "resnet34": _versions("resnet34-b627a593.pth"),
    "resnet50": _versions("resnet50-0676ba61.pth", Weights("resnet50-11ad3fa6.pth", 232)),
    "resnet101": _versions("resnet101-63fe2227.pth", Weights("resnet101-cd907fc2.pth", 232)),
    "resnet152": _versions("resnet152-394f9c45.pth", Weights("resnet152-f82ba261.pth", 232)),
    "googlenet": _versions("googlenet-1378be20.pth"),
    "inception_v3": _versions(Weights("inception_v3_google-0cc3c7bd.pth", 342, 299)),
    "shufflenet_v2_x0_5": _versions("shufflenetv2_x0.5-f707e7126e.pth"),
    "shufflenet_v2_x1_0": _versions("shufflenetv2_x1-5666bf0f80.pth"),
    "shufflenet_v2_x1_5": _versions(Weights("shufflenetv2_x1_5-3c479a10.pth", 232)),
    "shufflenet_v2_x2_0": _versions(Weights("shufflenetv2_x2_0-8be3c8ee.pth", 232)),
}


def find_weights(name: str) -> tuple[str, Weights]:
    """The full name and the file of `resnet50` (torchvision's default) or `resnet50.IMAGENET1K_V1`.

    Raises UsageError for a network or a version that is not there.
    """
    network, _, version = name.partition(".")
    if network not in WEIGHTS:
        raise unknown_name("network of torchvision", network, WEIGHTS)
    versions = WEIGHTS[network]
    if version in ("", "DEFAULT"):
        version = list(versions)[-1]
    if version not in versions:
        raise UsageError(
            f"torchvision has no weights {printable(version)!r} of {network}: known are {', '.join(versions)}"
        )
    return f"{network}.{version}", versions[version]


def fetch_weights(weights: Weights) -> tuple[Path, str]:
    """The file in the user's cache, fetched if it is not there, and its SHA-256.

    The address is torchvision's, or the one in CONVATLAS_TORCHVISION_URL, a mirror. Raises UserError for a
    file that cannot be fetched, or whose hash is not the one in its name.
    """
    address = os.environ.get(MIRROR_VARIABLE) or ADDRESS
    path = cache_dir() / "torchvision" / weights.file
    if path.exists() and _problem(path, weights):
        path.unlink()  # damaged since it was fetched
    try:
        download_file(
            f"{address.removesuffix('/')}/{weights.file}", path, lambda file: _problem(file, weights), track
        )
    except UserError as error:
        raise UserError(
            f"{error}; elsewhere fetch {ADDRESS}{weights.file} and import the file, or name a mirror in "
            f"{MIRROR_VARIABLE}"
        ) from None
    return path, file_sha256(path)


def _problem(file: Path, weights: Weights) -> str:
    sha256 = file_sha256(file)
    expected = weights.sha256_start
    start = sha256[: len(expected)]
    return "" if start == expected else f"has a SHA-256 that begins with {start}, expected {expected}"
