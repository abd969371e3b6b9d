"""`visualize`: what a classifier responds to, as figures."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json, write
from convatlas.errors import UsageError, UserError, printable, unknown_name

FILTERS = "filters.png"
TOP_ACTIVATIONS = "top_activations.png"
DEFAULT_FOLDER = "visualizations"


@dataclass
class Visualize:
    """Draw the first layer's filters; for images, Grad-CAM and the deconvolution of a map; over data, a
    layer's top activations.

    Top activations are drawn without images, or with --data.
    """

    weights: Annotated[
        Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")
    ]
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="Image files.")] = ()
    module: Annotated[
        str,
        arg(
            metavar="PATH",
            help="A layer, as show --depth 9 names it; default the last with maps of at least 7x7.",
        ),
    ] = ""
    map: Annotated[
        int | None,
        arg(
            metavar="N",
            help="One of its maps; default the one with the highest activation, over data six of them.",
        ),
    ] = None
    class_: Annotated[
        str, arg(name="class", metavar="NAME", help="The class to explain; default the three likeliest.")
    ] = ""
    data: Annotated[str, arg(metavar="DATA", help="Default: the training data, where no image is given.")] = (
        ""
    )
    split: Annotated[str, arg(help="train, val or test.")] = "val"
    out: Annotated[
        Path | None, arg(metavar="FOLDER", help="Default: visualizations, beside the weights.")
    ] = None
    json: Json = False

    def __call__(self) -> int:
        from convatlas.classifier import load
        from convatlas.plotting import image_png
        from convatlas.visualization import first_filters, last_conv_layer, plots, top_activations
        from convatlas.visualization.explain import explain_image
        from convatlas.visualization.filters import draw_filters

        classifier = load(self.weights)
        classes = list(classifier.metadata.classes)
        if self.class_ and self.class_ not in classes:
            raise unknown_name("class", self.class_, classes)
        layer = self.module or last_conv_layer(classifier.model, classifier.metadata.preprocessing.shape)
        folder = self.weights if self.weights.is_dir() else self.weights.parent
        output = _OutputFolder(self.out or folder / DEFAULT_FOLDER, quiet=self.json)
        documents: list[dict[str, Any]] = []
        for image in self.images:
            try:
                explained = explain_image(classifier, image, layer, self.class_, self.map)
            except UsageError:
                raise
            except UserError as error:
                documents.append({"file": str(image), "error": str(error)})
                print(f"convatlas: {printable(error)}", file=sys.stderr)
                continue
            file = output.write(output.unused_name(image.stem), plots.draw_explanation(explained))
            documents.append({"file": str(image), "picture": file})
        training_data = classifier.metadata.provenance.get("data")
        if self.data or (not self.images and training_data):
            maps = () if self.map is None else (self.map,)
            activations = top_activations(classifier, self.data or None, layer, maps, self.split)
            output.write(TOP_ACTIVATIONS, plots.draw_top_activations(activations, layer))
        elif not self.images:
            print(
                "convatlas: the file does not say what it was trained on: name images, or data with --data, "
                "for more",
                file=sys.stderr,
            )
        output.write(FILTERS, image_png(draw_filters(first_filters(classifier.model)[1])))
        if self.json:
            document = {"out": str(output.path), "layer": layer, "files": output.files, "images": documents}
            print_json(document)
        return 1 if any("error" in document for document in documents) else 0


@dataclass
class _OutputFolder:
    path: Path
    quiet: bool
    files: list[str] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> str:
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / name
        write(file, data, quiet=self.quiet)
        self.files.append(str(file))
        return str(file)

    def unused_name(self, stem: str) -> str:
        """A name that no other figure of this call has, and that is not always written."""
        used = {Path(file).name for file in self.files} | {FILTERS, TOP_ACTIVATIONS}
        names = [f"{stem}.png", *(f"{stem}-{n}.png" for n in range(2, len(used) + 3))]
        return next(name for name in names if name not in used)
