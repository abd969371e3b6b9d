"""`export`: a classifier in another library's format, read back and compared before it is called done."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json
from convatlas.errors import UsageError, printable, unknown_name

PLACES = {"onnx": "model.onnx", "openvino": "openvino", "int8": "openvino-int8", "safetensors": "classifier.safetensors", "hub": "hub"}


@dataclass
class Export:
    """Write a classifier for ONNX, OpenVINO (fp32 or int8), safetensors or the Hugging Face Hub; read it back and compare."""

    weights: Annotated[Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")]
    to: Annotated[str, arg(metavar="FORMAT", help="onnx, openvino, int8, safetensors or hub (needed).")] = ""
    out: Annotated[Path | None, arg(metavar="PATH", help="A file for onnx and safetensors, else a folder; default in the run's.")] = None
    max_drop: Annotated[float, arg(metavar="POINTS", help="int8: top-1 on validation images may fall by so much.")] = 0.5
    data: Annotated[str | None, arg(metavar="DATA", help="int8: images to calibrate and check on; default what it was trained on.")] = None
    json: Json = False

    def __call__(self) -> None:
        if not self.to:
            raise UsageError(f"export needs --to and a format, for example: convatlas export {printable(self.weights)} --to onnx")
        if self.to not in PLACES:
            raise unknown_name("format", self.to, PLACES)
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop should be 0 to 100 points, not {self.max_drop:g}")
        home = self.weights if self.weights.is_dir() else self.weights.parent
        out = self.out or home / PLACES[self.to]
        if out.exists():
            raise UsageError(f"{printable(out)} is there already: choose another place with --out, or remove it")
        from convatlas.inference import load

        classifier = load(self.weights)
        print(f"convatlas: writing {printable(out)}, reading it back, comparing", file=sys.stderr)
        facts = self._int8(classifier, out) if self.to == "int8" else self._plain(classifier, out)
        if self.json:
            print_json({"out": str(out), "to": self.to} | facts)
            return
        if self.to == "int8":
            print(f"top-1 on {facts['n']:,} validation images: {facts['before']:.2f} % in fp32, {facts['after']:.2f} % in int8")
        elif self.to in ("onnx", "openvino"):
            print(f"agrees with PyTorch: the largest difference is {facts['difference']:.1g} of the largest logit")
        else:
            print("what is read back is bit for bit what was written")
        print(f"wrote {printable(out)}")

    def _plain(self, classifier: Any, out: Path) -> dict[str, Any]:
        from convatlas.export import formats, huggingface

        out.parent.mkdir(parents=True, exist_ok=True)
        if self.to == "hub":
            return {"difference": huggingface.to_hub(classifier, out).difference}
        if self.to == "safetensors":
            return {"difference": formats.to_safetensors(classifier, out).difference}
        write = formats.to_onnx if self.to == "onnx" else formats.to_openvino
        return {"difference": write(classifier, _noise(classifier), out).difference}

    def _int8(self, classifier: Any, out: Path) -> dict[str, Any]:
        import torch

        from convatlas.data import open_dataset
        from convatlas.data.loading.eval_batches import EvalBatches
        from convatlas.data.loading.loader import default_num_workers
        from convatlas.evaluation import metrics, predict, protocols
        from convatlas.evaluation.request import EnsembleMember, make_request
        from convatlas.export import formats, quantization

        dataset = open_dataset(self.data or classifier.trained_on)
        for split in ("train", "val"):
            if split not in dataset.splits:
                raise unknown_name("split", split, dataset.splits)
        asked = make_request(
            EnsembleMember(str(self.weights), classifier, None), protocols.get_protocol("center", None), dataset, "val", None
        )
        source = EvalBatches(asked.split, asked.preprocessing, 32)

        def accuracy(infer: Any) -> float:
            found = predict.predict_split(infer, source, torch.device("cpu"), default_num_workers(asked.split))
            return metrics.percent(int(metrics.correct(found.logits, asked.class_indices[found.labels]).sum()), len(found.labels))

        out.parent.mkdir(parents=True, exist_ok=True)
        images = quantization.calibration_images(dataset.splits["train"].images, asked.preprocessing)
        found = formats.to_int8(classifier, images[:8], out, [images], accuracy, self.max_drop)
        return {"before": found.before, "after": found.after, "drop": found.drop, "n": len(asked.split), "calibrated_on": len(images)}


def _noise(classifier: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (8, *classifier.metadata.preprocessing.shape), generator=generator, dtype=torch.uint8)
