"""`predict` with a network that labels pixels: masks and overlays as files."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convatlas.cli.prediction_files import Documents, shared_documents, write_files
from convatlas.errors import UserError, printable
from convatlas.names import escape_name

if TYPE_CHECKING:
    from convatlas.classifier import Classifier
    from convatlas.runtime.distributed.ranks import Ranks
    from convatlas.segmentation.segmenter import Segmenter

MAX_CLASSES = 4  # that are named of a mask
SUFFIXES = {"mask": "", "overlay": ".overlay", "instances": ".instances"}  # of the names of files


class MaskOptions(NamedTuple):
    """The engine, the folder of the files, and whether the objects are written too."""

    engine: str
    folder: Path
    instances: bool


def labels_pixels(classifier: "Classifier") -> bool:
    from convatlas import models

    network = classifier.metadata.network
    return models.get_entry(network.name, network.edition).task == "segmentation"


def mask_documents(
    classifier: "Classifier",
    files: Iterable[str],
    options: MaskOptions,
    ranks: "Ranks",
    say: Callable[[str], None],
) -> Documents:
    """Write NAME.png, the class indices with a palette, NAME.overlay.png and on request NAME.instances.png
    for each image, and yield their documents in order on every rank; each rank predicts its share of the
    images.

    Raises UserError where the folder cannot be written.
    """
    from convatlas.segmentation.segmenter import Segmenter

    segmenter = Segmenter(classifier)
    on_engine = say if ranks.rank == 0 else lambda line: None
    yield from shared_documents(
        files,
        options.folder,
        ranks,
        lambda file, name: _document(segmenter, file, name, options, on_engine),
    )


def _document(
    segmenter: "Segmenter", file: str, name: str, options: MaskOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    import numpy as np

    from convatlas.data.mask_pictures import instances_png, mask_png, overlay
    from convatlas.plotting import image_png
    from convatlas.segmentation.instances import label_instances

    ((_, segmented),) = segmenter.predict_iter([file], options.engine, say)
    if isinstance(segmented, UserError):
        return {"file": escape_name(file), "error": str(segmented)}
    mask = segmented.mask
    pictures = {"mask": mask_png(mask), "overlay": image_png(overlay(segmented.pixels, mask))}
    objects = {}
    if options.instances:
        instances = label_instances(mask, ignore=None)
        objects["objects"] = int(instances.max())
        try:
            pictures["instances"] = instances_png(instances)
        except UserError as error:
            return {"file": escape_name(file), "error": f"{printable(file)}: {error}"}
    names = {kind: f"{name}{SUFFIXES[kind]}.png" for kind in pictures}
    paths = write_files(options.folder, {names[kind]: picture for kind, picture in pictures.items()})
    counts = np.bincount(mask.ravel(), minlength=len(segmenter.classes))
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {
        "file": escape_name(file),
        **{kind: paths[names[kind]] for kind in pictures},
        "classes": [
            {"name": segmenter.classes[index], "share": 100 * int(counts[index]) / mask.size}
            for index in order[:MAX_CLASSES]
        ],
        **objects,
    }
