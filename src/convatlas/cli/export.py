"""`export`: a classifier in another format, read back and compared before it is put in its place."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from convatlas.cli.arguments import Edits, Json, arg
from convatlas.cli.output import print_json
from convatlas.errors import UsageError, printable


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
    opset: Annotated[
        int | None, arg(metavar="N", help="onnx: the version of ONNX's operators; default PyTorch's.")
    ] = None
    max_drop: Annotated[
        float,
        arg(
            metavar="POINTS",
            help="int8: the largest allowed fall of top-1, or mean IU, on validation images.",
        ),
    ] = 0.5
    data: Annotated[
        str | None,
        arg(metavar="DATA", help="int8: images to calibrate and check on; default the training data."),
    ] = None
    edit: Edits = ()
    json: Json = False

    def __call__(self) -> None:
        if not self.to:
            weights = printable(self.weights)
            raise UsageError(
                f"export needs --to and a format, for example: convatlas export {weights} --to onnx"
            )
        from convatlas.export import request
        from convatlas.export.formats import SCORES
        from convatlas.models.edits import parse_edit

        request.check_request(self.to, self.opset, self.max_drop)
        out = self.out or request.default_path(self.weights, self.to)
        request.check_is_new(out, self.to)
        edits = [parse_edit(text) for text in self.edit]
        print(f"convatlas: writing {printable(out)}, reading it back, comparing", file=sys.stderr)
        results = request.export_classifier(
            self.weights, self.to, out, self.opset, self.max_drop, self.data, edits
        )
        if self.json:
            print_json(results)
            return
        if self.to == "int8":
            before, after = results["before"], results["after"]
            score = SCORES[results["score"]]
            print(
                f"{score} on {results['n']:,} validation images: {before:.2f} % in fp32, {after:.2f} % in "
                "int8"
            )
        elif self.to in ("onnx", "openvino"):
            print(
                f"agrees with PyTorch: the largest difference is {results['difference']:.1g} of the largest "
                "logit"
            )
        else:
            print("what is read back is bit for bit what was written")
        print(f"wrote {printable(out)}")
