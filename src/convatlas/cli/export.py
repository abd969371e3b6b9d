"""`export`: a classifier in another format, read back and compared before it is put in its place."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json
from convatlas.errors import UsageError, printable, unknown_name

if TYPE_CHECKING:
    from convatlas.classifier import Classifier

# Where each format is written, in the run's folder
DEFAULT_NAMES = {
    "onnx": "model.onnx",
    "openvino": "openvino",
    "int8": "openvino-int8",
    "safetensors": "classifier.safetensors",
    "hub": "hub",
}


@dataclass
class Export:
    """Write a classifier for ONNX, OpenVINO, safetensors or the Hugging Face Hub, and check it."""

    weights: Annotated[
        Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")
    ]
    to: Annotated[str, arg(metavar="FORMAT", help="onnx, openvino, int8, safetensors or hub (required).")] = (
        ""
    )
    out: Annotated[
        Path | None,
        arg(
            metavar="PATH",
            help="A file for onnx and safetensors, else a folder; default in the run's folder.",
        ),
    ] = None
    max_drop: Annotated[
        float, arg(metavar="POINTS", help="int8: the largest allowed fall of top-1 on validation images.")
    ] = 0.5
    data: Annotated[
        str | None,
        arg(metavar="DATA", help="int8: images to calibrate and check on; default the training data."),
    ] = None
    json: Json = False

    def __call__(self) -> None:
        if not self.to:
            weights = printable(self.weights)
            raise UsageError(
                f"export needs --to and a format, for example: convatlas export {weights} --to onnx"
            )
        if self.to not in DEFAULT_NAMES:
            raise unknown_name("format", self.to, DEFAULT_NAMES)
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop should be 0 to 100 points, not {self.max_drop:g}")
        folder = self.weights if self.weights.is_dir() else self.weights.parent
        out = self.out or folder / DEFAULT_NAMES[self.to]
        if out.exists():
            raise UsageError(
                f"{printable(out)} already exists: choose another place with --out, or remove it"
            )
        from convatlas.classifier import load

        classifier = load(self.weights)
        print(f"convatlas: writing {printable(out)}, reading it back, comparing", file=sys.stderr)
        results = self._write(classifier, out)
        if self.json:
            print_json({"out": str(out), "to": self.to} | results)
            return
        if self.to == "int8":
            before, after = results["before"], results["after"]
            print(
                f"top-1 on {results['n']:,} validation images: {before:.2f} % in fp32, {after:.2f} % in int8"
            )
        elif self.to in ("onnx", "openvino"):
            print(
                f"agrees with PyTorch: the largest difference is {results['difference']:.1g} of the largest "
                "logit"
            )
        else:
            print("what is read back is bit for bit what was written")
        print(f"wrote {printable(out)}")

    def _write(self, classifier: "Classifier", out: Path) -> dict[str, Any]:
        from convatlas.export import formats, huggingface, int8

        out.parent.mkdir(parents=True, exist_ok=True)
        match self.to:
            case "int8":
                report = int8.classifier_to_int8(classifier, out, self.data, self.max_drop, str(self.weights))
                return dataclasses.asdict(report)
            case "hub":
                return {"difference": huggingface.to_hub(classifier, out).difference}
            case "safetensors":
                return {"difference": formats.to_safetensors(classifier, out).difference}
            case "onnx":
                return {
                    "difference": formats.to_onnx(
                        classifier, formats.random_images(classifier), out
                    ).difference
                }
            case _:
                return {
                    "difference": formats.to_openvino(
                        classifier, formats.random_images(classifier), out
                    ).difference
                }
