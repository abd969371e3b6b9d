"""A folder in the Hugging Face Hub's layout: weights, config and model card."""

from pathlib import Path
from typing import Any

from convatlas import models
from convatlas.classifier import Classifier, ClassifierMetadata
from convatlas.errors import UserError
from convatlas.evaluation import metrics
from convatlas.export.formats import Exported, write_classifier
from convatlas.formatting import describe_edits
from convatlas.markdown import markdown_text
from convatlas.storage.atomic import atomic_output, atomic_write
from convatlas.storage.records import to_json

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# How an image of the resize size becomes one of the input size
FITTED = {
    "none": "",
    "pad": ", padded to {}",
    "resize": ", resized to {}",
    "crop": ", of which the centre {} is taken",
}
MAX_CLASSES = 100  # in the card; config.json lists them all


def to_hub(classifier: Classifier, path: Path) -> Exported:
    """Write `model.safetensors`, `config.json` and `README.md` into a folder, and read the classifier back
    from it.

    Raises UserError when huggingface_hub, which writes the card, is not installed.
    """
    try:
        from huggingface_hub import EvalResult, ModelCard, ModelCardData
    except ImportError:
        raise UserError("export to hub needs huggingface_hub: pip install 'convatlas[hf]'") from None
    metadata = classifier.metadata
    data = str(metadata.provenance.get("data", ""))
    top1 = metadata.metrics.get("test_top1")
    results = []
    if data and top1 is not None:
        results.append(
            EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split="test",
                metric_type="accuracy",
                metric_value=round(top1 / 100, 6),
            )
        )
    header = ModelCardData(
        library_name="convatlas",
        pipeline_tag="image-classification",
        tags=[metadata.network.name, "image-classification"],
        model_name=_title(metadata) if results else None,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        header,
        template_path=str(TEMPLATE),
        title=_title(metadata),
        about=_about(metadata),
        facts=_facts(metadata),
        metrics=_metrics(metadata),
        classes=_classes(metadata),
        limits=_limits(metadata),
    )
    with atomic_output(path) as new:
        new.mkdir()
        write_classifier(classifier, new / "model.safetensors")
        atomic_write(new / "config.json", to_json(_config(metadata), indent=2))
        atomic_write(new / "README.md", (str(card).rstrip() + "\n").encode())
    return Exported(path, 0.0)


def _config(metadata: ClassifierMetadata) -> dict[str, Any]:
    return {
        "architectures": [metadata.network.name],
        "model_type": "convatlas",
        "num_channels": metadata.preprocessing.channels,
        "image_size": list(metadata.preprocessing.input_size),
        "id2label": {str(number): name for number, name in enumerate(metadata.classes)},
        "label2id": {name: number for number, name in enumerate(metadata.classes)},
        "convatlas": metadata,
    }


def _title(metadata: ClassifierMetadata) -> str:
    name = metadata.network.name
    data = metadata.provenance.get("data")
    return f"{name} on {_escape(data)}" if data else name


def _about(metadata: ClassifierMetadata) -> str:
    network = metadata.network
    entry = models.get_entry(network.name)
    edition = (
        "as its paper prints it" if network.edition == "paper" else f"in the edition of {network.edition}"
    )
    edition += describe_edits(network.edits)
    imported = metadata.provenance.get("imported")
    origin = "Trained with ConvAtlas."
    if imported is not None:
        origin = f"Imported from {_escape(imported)}."
    elif "origin" in metadata.provenance:
        origin = f"{_escape(metadata.provenance['origin']).capitalize()}."
    return (
        f"{network.name} ({entry.paper}, {entry.year}; {entry.source}), {edition}, "
        f"for {len(metadata.classes):,} classes. {origin}"
    )


def _facts(metadata: ClassifierMetadata) -> dict[str, str]:
    preprocessing = metadata.preprocessing
    network = models.build(metadata.network)
    edition = metadata.network.edition
    defaults = models.get_entry(metadata.network.name, edition).default_arguments(edition)
    changed = {name: value for name, value in metadata.network.arguments.items() if value != defaults[name]}
    color = "RGB" if preprocessing.channels == 3 else "grey"
    fitted = FITTED[preprocessing.mode].format(_format_size(preprocessing.input_size))
    facts = {
        "parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "unlike the paper": ", ".join(
            [
                *(f"{name} {_escape(value)}" for name, value in changed.items()),
                *map(_escape, metadata.network.edits),
            ]
        )
        or "nothing",
        "images": f"{color}, resized to {_format_size(preprocessing.resize_size)}{fitted}",
    }
    provenance = metadata.provenance
    names = ("data", "recipe", "seed", "run", "source", "torch")
    facts |= {name: _escape(provenance[name]) for name in names if name in provenance}
    return facts | {"precision of the training": metadata.precision}


def _metrics(metadata: ClassifierMetadata) -> dict[str, str]:
    values = metadata.metrics
    rows = {}
    n = values.get("test_n")
    if n and "test_top1" in values:
        low, high = metrics.interval(round(values["test_top1"] * n / 100), n)
        rows["top-1, test"] = (
            f"{values['test_top1']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {n:,} images)"
        )
    names = {"test_top5": "top-5, test", "val_top1": "top-1, validation"}
    rows |= {text: f"{values[name]:.2f} %" for name, text in names.items() if values.get(name) is not None}
    if "test_loss" in values:
        rows["mean negative log-likelihood, test"] = f"{values['test_loss']:.4f}"
    return rows


def _classes(metadata: ClassifierMetadata) -> str:
    names = [_escape(name) for name in metadata.classes[:MAX_CLASSES]]
    more = len(metadata.classes) - len(names)
    return ", ".join(names) + (f", and {more:,} more in `config.json`." if more else ".")


def _limits(metadata: ClassifierMetadata) -> list[str]:
    size = _format_size(metadata.preprocessing.input_size)
    lines = [
        f"It predicts one of its {len(metadata.classes):,} classes for every image, whatever the image "
        "shows.",
        f"Its input has {size} pixels: details that are smaller than a pixel there are lost.",
    ]
    if "data" in metadata.provenance:
        data = _escape(metadata.provenance["data"])
        lines.append(f"Its accuracy holds for images like those of {data}; for others it is not known.")
    if metadata.metrics.get("test_top1") is not None:
        lines.append(
            "The accuracy is of one training with one seed; the interval covers other images, not other "
            "seeds."
        )
    lines.append("Its probabilities are the softmax of its logits, not calibrated afterwards.")
    lines.append("It was not checked for unfair or harmful predictions.")
    return lines


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _escape(value: object) -> str:
    """Names from files and folders, harmless in Markdown."""
    return markdown_text(str(value))
