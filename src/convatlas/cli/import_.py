"""`import`: another library's weights become a classifier."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json
from convatlas.errors import UsageError, UserError, printable


@dataclass
class Import:
    """Turn weights of torchvision, timm or pytorchcv (.pth, .safetensors) into a classifier."""

    file: Annotated[Positional[Path], arg(metavar="FILE", help="The weights; nothing in them is run.")]
    model: Annotated[str, arg(metavar="MODEL", help="The network's name.")]
    edition: Annotated[str | None, arg(help="Default: the first edition that the weights fit.")] = None
    classes: Annotated[
        Path | None,
        arg(metavar="FILE", help="Class names, one a line or a JSON list; default their numbers."),
    ] = None
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Default runs/MODEL-LIBRARY.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.classifier import write_model_file
        from convatlas.interop import import_classifier

        classifier = import_classifier(self.file, self.model, self.edition, self.classes)
        metadata = classifier.metadata
        source = metadata.provenance["source"]
        out = self.out or Path("runs") / f"{self.model}-{source}"
        file = out / "model.safetensors"
        if file.exists() or (out / "run.json").exists():
            raise UsageError(
                f"{printable(out)} already holds a classifier or a run: choose another folder with --out"
            )
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_model_file(file, metadata, classifier.model, classifier.normalizer)
        except OSError as error:
            raise UserError(f"cannot write {printable(file)}: {error.strerror}") from None
        num_classes = len(metadata.classes)
        if self.json:
            print_json(
                {"out": str(out), "network": metadata.network, "source": source, "classes": num_classes}
            )
            return
        size = metadata.preprocessing.input_size[0]
        shorter_side = metadata.preprocessing.resize_size[0]
        edition = metadata.network.edition
        print(f"{source}'s weights fit {self.model}, edition {edition}: {num_classes:,} classes")
        print(
            f"images: shorter side to {shorter_side}, centre {size}x{size}, as for that library's usual "
            "weights"
        )
        if self.classes is None:
            print("classes have numbers: name them with --classes FILE, one a line")
        print(f"wrote {printable(file)}")
        print("next:")
        print(f"  convatlas predict {printable(out)} IMAGE...")
        print(f"  convatlas eval {printable(out)} --data folder:PHOTOS")
