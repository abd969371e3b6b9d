"""The evaluation protocols of the papers: which views of an image they use, and how they average. `eval
--crops` takes their names.

Several networks are averaged as in all of these papers that state it: by the mean of their softmax
probabilities (Krizhevsky 2012, sec. 6; arXiv:1409.4842, sec. 7; arXiv:1409.1556, sec. 4.5).
"""

from collections.abc import Mapping
from typing import Any

from convatlas.data.transforms.multi_crop import FullImage, InceptionCrops, MultiCrop, TenCrop
from convatlas.errors import unknown_name
from convatlas.evaluation.ensemble import Average
from convatlas.storage.records import Record


class EvalProtocol(Record, frozen=True, kw_only=True):
    """A protocol. With `views` None, an image has one view, by the classifier's own preprocessing.

    `average` is over the views of an image, `ensemble` over networks. `unstated` are the settings that the
    source leaves out, with the value chosen here.
    """

    name: str
    label: str  # for sentences
    source: str
    views: MultiCrop | None = None
    average: Average = "probabilities"
    ensemble: Average = "probabilities"
    unstated: tuple[str, ...] = ()


CENTER = EvalProtocol(name="center", label="centre crop", source="the classifier's own preprocessing")
TEN = EvalProtocol(name="10", label="10 crops", source="Krizhevsky 2012, sec. 4.1", views=TenCrop())
INCEPTION = EvalProtocol(
    name="144", label="144 crops", source="arXiv:1409.4842, sec. 7", views=InceptionCrops()
)
TWELVE = EvalProtocol(
    name="12",
    label="12 crops",
    source="arXiv:1512.00567, Table 4",
    views=InceptionCrops(scales=(256,), squares=1),
    unstated=(
        "what the 12 crops are "
        "(ours: of arXiv:1409.4842's 144 those of its smallest scale and middle square)",
        "average (ours: of probabilities, as there)",
    ),
)
DENSE = EvalProtocol(
    name="dense", label="dense", source="arXiv:1409.1556, sec. 3.2 and 4.1", views=FullImage(scales=(256,))
)
MULTISCALE = EvalProtocol(
    name="multiscale",
    label="dense at five scales",
    source="arXiv:1512.03385, sec. 3.4",
    views=FullImage(scales=(224, 256, 384, 480, 640)),
    average="scores",
    unstated=(
        "average: whether the scores are those before or after the softmax (ours: before)",
        "mirrored images "
        "(ours: averaged too, as in arXiv:1409.1556, whose fully convolutional form it adopts)",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in (CENTER, TEN, TWELVE, INCEPTION, DENSE, MULTISCALE)}


def get_protocol(name: str, crop: Mapping[str, Any] | None = None) -> EvalProtocol:
    """The protocol of this name, for a classifier that was trained with `crop` (a record of
    data/transforms/random_crop.py as JSON; None: unknown).

    Dense evaluation uses the scale of training; where training drew the scale from a range, its mean
    (arXiv:1409.1556, sec. 4.1). Raises UsageError for a name that does not exist.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    if name == "dense" and crop and crop.get("type") == "ScaleJitter":
        scale = round(sum(crop["resize_range"]) / 2)
        return DENSE.replace(views=FullImage(scales=(scale,), paper_size=crop["crop"]))
    return PROTOCOLS[name]
