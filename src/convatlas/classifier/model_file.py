"""`model.safetensors`: weights, classes, preprocessing and provenance in one checked file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from convatlas import models
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UsageError, UserError, printable
from convatlas.models import Architecture, Network
from convatlas.models.edits import fingerprint
from convatlas.runtime.device import Precision
from convatlas.storage.checked_safetensors import read_checked, write_checked
from convatlas.storage.records import Record, from_json

FORMAT = 2
FILE_NAME = "model.safetensors"
DETECTOR_KEY = "regions"  # in the metadata of a file that holds a detector (boxes/detector_file.py) alone
MAX_BATCH = 1 << 16  # images, in evaluation


class ClassifierMetadata(Record, frozen=True, kw_only=True):
    """What stands in the file beside the weights. `batch` is the one batch shape of its evaluations."""

    format: int
    network: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    precision: Precision
    batch: int
    provenance: dict[str, Any]
    metrics: dict[str, Any]


class _Document(ClassifierMetadata, frozen=True, kw_only=True, omit_defaults=True):
    """`fingerprint`: what a network with edits, or of the user's own, computes (models.edits.fingerprint)."""

    fingerprint: str = ""


class ModelFile(NamedTuple):
    """The content of a `model.safetensors`."""

    metadata: ClassifierMetadata
    model: Network
    normalizer: Normalizer


def write_model_file(
    path: Path, metadata: ClassifierMetadata, model: torch.nn.Module, normalizer: Normalizer
) -> None:
    """Write the network's tensors by their names, the normalizer's under `preprocessing.`. Raises OSError."""
    document = metadata
    if _is_checked(metadata.network):
        with torch.device("meta"):
            network = models.build(metadata.network)
        computed = fingerprint(network, metadata.preprocessing.shape)
        document = _Document(**msgspec.structs.asdict(metadata), fingerprint=computed)
    write_checked(path, named_tensors(model, normalizer), document)


def named_tensors(model: torch.nn.Module, normalizer: Normalizer) -> dict[str, Tensor]:
    """All tensors of a classifier, as its file names them."""
    statistics = {f"preprocessing.{name}": tensor for name, tensor in normalizer.state_dict().items()}
    return dict(model.state_dict()) | statistics


def save_model_file(path: str | Path, overwrite: bool, write: Callable[[Path], None]) -> Path:
    """Write a file that ends in .safetensors, or `model.safetensors` in a folder, and return it.

    Raises UsageError for one that exists, unless it is to be overwritten; UserError where it cannot be
    written.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        file = file / FILE_NAME
    if file.exists() and not overwrite:
        raise UsageError(f"{printable(file)} already exists: choose another place, or overwrite=True")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)
    except OSError as error:
        raise UserError(f"cannot write {printable(file)}: {error.strerror}") from None
    return file


def find_model_file(path: str | Path) -> Path:
    """The model.safetensors of a run's folder, or the file itself. Raises UserError for a folder without
    one."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if path.is_dir() and not file.exists():
        is_run = (path / "run.json").exists()
        hint = f"finish it with: convatlas train --resume {path}" if is_run else "expected a run folder"
        raise UserError(f"{printable(path)} holds no {FILE_NAME}: {hint}")
    return file


def read_model_file(file: Path) -> ModelFile:
    """Raises UserError for a file that is missing, damaged, of another format, or inconsistent; UsageError
    for one that holds a detector."""
    tensors, document = read_checked(file)
    keys = from_json(document, dict[str, Any], f"{file}, its metadata")
    if DETECTOR_KEY in keys:
        raise UsageError(
            f"{printable(file)} holds a detector: ca.Detector(PATH) opens it, and the commands eval and "
            "predict take it; expected a network"
        )
    check_format(file, keys.get("format"))
    fields = from_json(document, _Document, f"{file}, its metadata")
    metadata = ClassifierMetadata(
        **{name: getattr(fields, name) for name in ClassifierMetadata.__struct_fields__}
    )
    return build_model(file, metadata, tensors, fields.fingerprint)


def build_model(
    file: Path,
    metadata: ClassifierMetadata,
    tensors: dict[str, Tensor],
    expected_fingerprint: str | None = None,
) -> ModelFile:
    """The network with its tensors, which are named as `named_tensors` does. `expected_fingerprint` is that
    of a file which keeps one.

    Raises UserError unless they belong together; it names `file`.
    """
    _check_metadata(file, metadata)
    statistics = {name: tensors.pop(f"preprocessing.{name}", torch.empty(0)) for name in ("mean", "std")}
    preprocessing = metadata.preprocessing
    shapes = ((preprocessing.channels, 1, 1), preprocessing.shape)
    if any(tensor.shape not in shapes for tensor in statistics.values()):
        raise UserError(f"{file} does not hold the preprocessing that its metadata describes")
    with torch.device("meta"):
        network = models.build(metadata.network)
    is_checked = expected_fingerprint is not None and _is_checked(metadata.network)
    if is_checked and fingerprint(network, preprocessing.shape) != expected_fingerprint:
        raise UserError(
            f"{file} holds a {metadata.network.title} that computed something else than the one that is "
            "built now: read it with the code that wrote it"
        )
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise UserError(
            f"{file} does not hold the weights of the {metadata.network.name} that its metadata describes"
        )
    if not all(tensor.isfinite().all() for tensor in (*tensors.values(), *statistics.values())):
        raise UserError(f"{file} holds weights that are not finite")
    model = models.build(metadata.network)
    model.load_state_dict(tensors)
    return ModelFile(metadata, model, Normalizer(statistics["mean"], statistics["std"]))


def _is_checked(network: Architecture) -> bool:
    """Whether a fingerprint of the network is kept: its name alone does not say what it computes."""
    return bool(network.edits or network.source_sha256)


def check_format(file: Path, version: object) -> None:
    """Raises UserError for a version that is not FORMAT."""
    if version != FORMAT:
        raise UserError(
            f"{file} has format version {printable(version)[:20]}: this ConvAtlas reads version {FORMAT}"
        )


def check_class_names(file: Path, classes: Sequence[str]) -> None:
    """Raises UserError for a name that occurs twice."""
    if len(set(classes)) != len(classes):
        raise UserError(f"{file} names a class twice: classes are matched by their names")


def _check_metadata(file: Path, metadata: ClassifierMetadata) -> None:
    """Raises UserError."""
    check_format(file, metadata.format)
    num_classes = metadata.network.arguments.get("num_classes")
    if num_classes != len(metadata.classes):
        raise UserError(f"{file} names {len(metadata.classes)} classes but its network has {num_classes}")
    check_class_names(file, metadata.classes)
    if not 0 < metadata.batch <= MAX_BATCH:
        raise UserError(
            f"{file} gives {metadata.batch} as its evaluation's batch: expected 1 to {MAX_BATCH:,}"
        )
