"""A split of images with masks as a folder that trainings read: FOLDER/{train,val,test}/{images,masks}.

The files in it are hard links to those of the data set, and copies where the file system has none.
"""

import os
import shutil
from pathlib import Path

from convatlas.data.curation.split_files import FileSplit
from convatlas.data.sources.mask_classes import classes_document
from convatlas.data.sources.mask_files import MaskFiles
from convatlas.data.sources.mask_folder import IMAGES, INSTANCES, MASKS
from convatlas.runtime.progress import track
from convatlas.storage.atomic import atomic_output, atomic_write
from convatlas.storage.records import encode_json


def write_mask_folder(split: FileSplit, folder: Path) -> None:
    """Write the split's images with their masks and instances to a new folder, with the classes' names.

    A name stays as it is; images of a source with splits of its own lie in a folder named after theirs, since
    two may have one name. Raises OSError when the disk refuses.
    """
    masks = split.source.masks
    assert isinstance(masks, MaskFiles)
    kinds = {IMAGES: split.files.names, MASKS: masks.names, INSTANCES: masks.instance_names}
    files = [
        (names[index], Path(name, kind, _name_in_folder(names[index], kind)))
        for name, indices in split.splits.items()
        for index in indices.tolist()
        for kind, names in kinds.items()
        if names[index]
    ]
    with atomic_output(folder) as temporary:
        temporary.mkdir()
        atomic_write(temporary / "classes.json", encode_json(classes_document(masks.classes)))
        for source, target in track(files, len(files), "linking files"):
            (temporary / target).parent.mkdir(parents=True, exist_ok=True)
            _link(masks.root / source, temporary / target)


def _name_in_folder(name: str, kind: str) -> str:
    """`cell/1.png` of images/cell/1.png, and `train/cell/1.png` of train/images/cell/1.png."""
    part, _, rest = name.partition("/")
    return rest if part == kind else f"{part}/{rest.removeprefix(f'{kind}/')}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, one without links, or a file of another user
        shutil.copy2(source, target)
