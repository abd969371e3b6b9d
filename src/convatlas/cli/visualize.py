"""`convatlas see`: what a classifier looks at, as pictures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json, write
from convatlas.errors import UsageError, UserError, printable, unknown_name

TOP = 3  # classes of an image


@dataclass
class Visualize:
    """Draw what a classifier sees: the first layer's filters; in images, where a class finds its evidence (Grad-CAM) and what excites a map
    (deconvolution); without images or with --data, what excites a layer most over a data set."""

    weights: Annotated[Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")]
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="Image files.")] = ()
    layer: Annotated[str, arg(metavar="PATH", help="A layer, as show --depth 9 names it; default the last convolutional one.")] = ""
    map: Annotated[int | None, arg(metavar="N", help="One of its maps; default the most excited, over data six of them.")] = None
    class_: Annotated[str, arg(name="class", metavar="NAME", help=f"The class to find evidence for; default the {TOP} likeliest.")] = ""
    data: Annotated[str, arg(metavar="DATA", help="Default: the data that it was trained on, where no image is given.")] = ""
    split: Annotated[str, arg(help="train, val or test.")] = "val"
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Default: sight, beside the weights.")] = None
    json: Json = False

    def __call__(self) -> int:
        from convatlas.classifier import load
        from convatlas.visualization import first_filters, last_conv_layer, plots, top_activations
        from convatlas.visualization.filters import draw_filters

        classifier = load(self.weights)
        classes = list(classifier.metadata.classes)
        if self.class_ and self.class_ not in classes:
            raise unknown_name("class", self.class_, classes)
        layer = self.layer or last_conv_layer(classifier.model, classifier.metadata.preprocessing.shape)
        out = self.out or (self.weights if self.weights.is_dir() else self.weights.parent) / "sight"
        files, failed = [], 0
        documents: list[dict[str, Any]] = []

        def keep(name: str, data: bytes) -> str:
            out.mkdir(parents=True, exist_ok=True)
            write(out / name, data, quiet=self.json)
            files.append(str(out / name))
            return files[-1]

        for image in self.images:
            try:
                titled = self._look(classifier, image, layer)
            except UsageError:
                raise
            except UserError as error:
                failed += 1
                documents.append({"file": str(image), "error": str(error)})
                print(f"convatlas: {printable(error)}", file=sys.stderr)
                continue
            documents.append({"file": str(image), "picture": keep(_fresh(image.stem, files), plots.row(titled))})
        if self.data or (not self.images and classifier.metadata.provenance.get("data")):
            found = top_activations(classifier, self.data or None, layer, () if self.map is None else (self.map,), self.split)
            keep("strongest.png", plots.sheet(found, layer))
        elif not self.images:
            print("convatlas: nothing says what it was trained on: name images, or data with --data, to see more", file=sys.stderr)
        keep("filters.png", plots.png(draw_filters(first_filters(classifier.model)[1])))
        if self.json:
            print_json({"out": str(out), "layer": layer, "files": files, "images": documents})
        return 1 if failed else 0

    def _look(self, classifier: Any, file: Path, layer: str) -> list[Any]:
        """An image as the network sees it, the evidence for its classes, and the projection of a map."""
        import torch

        from convatlas.data.images import decode as image_files
        from convatlas.visualization import deconv_reconstruct, grad_cam
        from convatlas.visualization.feature_maps import forward_with_maps
        from convatlas.visualization.plots import TitledImage, overlay, signal_to_image, to_image

        image = classifier.metadata.preprocessing.transform(image_files.open_image(file))
        standard = classifier.normalizer(image[None].to(classifier.runtime.device))
        with torch.no_grad():
            maps, logits = forward_with_maps(classifier.model, standard, layer)
        probabilities = logits.softmax(1)[0].tolist()
        classes = list(classifier.metadata.classes)
        asked = [classes.index(self.class_)] if self.class_ else sorted(range(len(classes)), key=lambda i: -probabilities[i])[:TOP]
        titled = [TitledImage(to_image(image), f"{file.name}, as the network sees it")]
        for label in asked:
            (found,) = grad_cam(classifier.model, standard, torch.tensor([label]), layer)
            nothing = "" if found.any() else ": nothing here speaks for it"
            titled.append(TitledImage(overlay(image, found), f"{classes[label]} {100 * probabilities[label]:.1f} %{nothing}"))
        number = int(maps[0].amax((1, 2)).argmax()) if self.map is None else self.map
        projected = deconv_reconstruct(classifier.model, standard, layer, number)[0].cpu()
        return [*titled, TitledImage(signal_to_image(projected), f"map {number} of {layer}, projected down")]


def _fresh(stem: str, files: list[str]) -> str:
    """A name for a picture that no other of this call has, and not one of those that are always written."""
    taken = {Path(file).name for file in files} | {"filters.png", "strongest.png"}
    names = [f"{stem}.png", *(f"{stem}-{n}.png" for n in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
