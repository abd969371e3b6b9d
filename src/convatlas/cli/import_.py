"""`import`: another library's weights become a classifier."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import paragraph, print_json
from convatlas.errors import UsageError, UserError, printable

if TYPE_CHECKING:
    from convatlas.classifier import Classifier
    from convatlas.interop.import_classifier import ImportOptions


@dataclass
class Import:
    """Turn weights of torchvision, timm or pytorchcv (.pth, .safetensors) into a classifier."""

    file: Annotated[
        Positional[str],
        arg(
            metavar="FILE",
            help="The weights; nothing in them is run. Or hf:REPO[@REVISION], or torchvision:NAME, which are "
            "fetched.",
        ),
    ]
    model: Annotated[
        str | None, arg(metavar="MODEL", help="The network's name; default the one that the weights fit.")
    ] = None
    edition: Annotated[
        str | None,
        arg(metavar="EDITION", help="Needed where the weights fit several that compute different things."),
    ] = None
    classes: Annotated[
        str | None,
        arg(
            metavar="FILE",
            help="Class names: one a line, index,name a line, JSON; or imagenet. Default: ImageNet's for "
            "1,000 classes of a library's network, else numbers.",
        ),
    ] = None
    size: Annotated[int | None, arg(metavar="N", help="Side of the images in pixels.")] = None
    mean: Annotated[
        str | None, arg(metavar="A,B,C", help="Mean of each channel, for pixels from 0 to 1.")
    ] = None
    std: Annotated[str | None, arg(metavar="A,B,C", help="Standard deviation of each channel.")] = None
    set: Annotated[
        tuple[str, ...], arg(metavar="KEY=VALUE ...", help="Arguments of the network, such as width=0.5.")
    ] = ()
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Default runs/MODEL-LIBRARY.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.classifier import write_model_file
        from convatlas.interop.import_classifier import import_weights

        options = self._options()
        if self.out is not None:
            _refuse_used(self.out)
        classifier = import_weights(self.file, options)
        metadata = classifier.metadata
        out = self.out or Path("runs") / f"{metadata.network.name}-{metadata.provenance['source']}"
        _refuse_used(out)
        file = out / "model.safetensors"
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_model_file(file, metadata, classifier.model, classifier.normalizer)
        except OSError as error:
            raise UserError(f"cannot write {printable(file)}: {error.strerror}") from None
        if self.json:
            print_json(_document(out, classifier))
        else:
            _print_summary(out, file, classifier)

    def _options(self) -> "ImportOptions":
        from convatlas.interop.import_classifier import ImportOptions, parse_arguments
        from convatlas.interop.input_options import InputOptions

        mean, std = (_numbers(name, getattr(self, name)) for name in ("mean", "std"))
        images = InputOptions(self.size, mean, std)
        return ImportOptions(self.model, self.edition, self.classes, images, parse_arguments(self.set))


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of `0.485,0.456,0.406`. Raises UsageError for anything else."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in re.split(r"[,\s]+", text.strip().strip("[]()")))
    except ValueError:
        raise UsageError(
            f"--{option} is '{printable(text)}': expected numbers with commas, such as 0.485,0.456,0.406"
        ) from None


def _refuse_used(out: Path) -> None:
    if (out / "model.safetensors").exists() or (out / "run.json").exists():
        raise UsageError(
            f"{printable(out)} already holds a classifier or a run: choose another folder with --out"
        )


def _document(out: Path, classifier: "Classifier") -> dict[str, object]:
    metadata = classifier.metadata
    mean, std = (
        tensor.flatten().tolist() for tensor in (classifier.normalizer.mean, classifier.normalizer.std)
    )
    return {
        "out": str(out),
        "network": metadata.network,
        "source": metadata.provenance["source"],
        "classes": len(metadata.classes),
        "size": metadata.preprocessing.input_size,
        "mean": mean,
        "std": std,
        "assumed": metadata.provenance["assumed"],
        "sha256": metadata.provenance["sha256"],
        "part": metadata.provenance.get("part", ""),
        "ignored": metadata.provenance.get("ignored", ""),
    }


def _print_summary(out: Path, file: Path, classifier: "Classifier") -> None:
    metadata = classifier.metadata
    network, preprocessing, provenance = metadata.network, metadata.preprocessing, metadata.provenance
    source = "ConvAtlas" if provenance["source"] == "convatlas" else provenance["source"]
    print(
        f"network: {network.name}, edition {network.edition}{_changed_arguments(classifier)}, from {source}"
    )
    num_classes = len(metadata.classes)
    if metadata.classes == tuple(map(str, range(num_classes))):
        print(f"classes: {num_classes:,}, no class names given: using indices; --classes FILE names them")
    else:
        first = ", ".join(printable(name) for name in metadata.classes[:3])
        print(f"classes: {num_classes:,}: {first}" + ", ..." * (num_classes > 3))
    height, width = preprocessing.input_size
    crop = (
        f"shorter side to {min(preprocessing.resize_size)}, centre " if preprocessing.mode == "crop" else ""
    )
    mean, std = (
        ", ".join(f"{value:g}" for value in tensor.flatten().tolist())
        for tensor in (classifier.normalizer.mean, classifier.normalizer.std)
    )
    print(f"images: {crop}{height}x{width}; mean {mean}; std {std}")
    if provenance.get("part"):
        print(f"taken from: {printable(provenance['part'])}")
    if provenance.get("ignored"):
        paragraph(f"ignored: {printable(provenance['ignored'])}", 2)
    if provenance["assumed"]:
        assumed = "; ".join(map(printable, provenance["assumed"]))
        paragraph(f"assumed, since nothing says otherwise: {assumed}", 2)
        print("  (correct with --size, --mean, --std, --classes)")
    if "revision" in provenance:
        print(f"revision: {printable(provenance['revision'])}, SHA-256 {provenance['sha256']}")
    print(f"wrote {printable(file)}")
    print("next:")
    print(f"  convatlas predict {printable(out)} IMAGE...")
    print(f"  convatlas eval {printable(out)} --data folder:PHOTOS")


def _changed_arguments(classifier: "Classifier") -> str:
    """The arguments that are not the edition's own, in words."""
    from convatlas import models

    network = classifier.metadata.network
    defaults = models.get_entry(network.name, network.edition).default_arguments(network.edition)
    changed = [
        f"{name}={value}"
        for name, value in network.arguments.items()
        if name != "num_classes" and value != defaults.get(name)
    ]
    return f" with {', '.join(changed)}" if changed else ""
