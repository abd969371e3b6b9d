"""A folder as the Hugging Face Hub shows it: weights, config, and a model card made of what the run knows of itself."""

from pathlib import Path
from typing import Any

from convatlas import models
from convatlas.classifier import Classifier, ClassifierMetadata
from convatlas.errors import UserError
from convatlas.export.formats import Exported, write_classifier
from convatlas.storage.atomic import atomic_output, atomic_write
from convatlas.storage.records import to_json

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ about }}

| | |
|---|---|
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
## Accuracy

{% if metrics -%}
| | |
|---|---:|
{% for name, value in metrics.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
{% else -%}
Not measured: the file came without metrics.
{% endif %}
## Use

```python
import convatlas as ca

classifier = ca.load("THIS FOLDER")
classifier.predict(["photo.jpg"], top=3)
```

Without ConvAtlas: `safetensors.torch.load_file("model.safetensors")` gives the network's tensors by the names of its layers, and
`preprocessing.mean` and `preprocessing.std` of pixels from 0 to 1; `config.json` names the classes in the order of the logits.

## Classes

{{ classes }}

## Limits

{% for line in limits -%}
- {{ line }}
{% endfor %}"""
FITTED = {"none": "", "pad": ", padded to {}", "resize": ", resized to {}", "crop": ", of which the centre {} is taken"}
MOST_CLASSES = 100  # that the card lists; config.json has them all


def to_hub(classifier: Classifier, path: Path) -> Exported:
    """`model.safetensors`, `config.json` and `README.md` in a folder. The classifier is read back from it. Raises UserError when
    huggingface_hub, which writes the card, is not installed."""
    try:
        from huggingface_hub import EvalResult, ModelCard, ModelCardData
    except ImportError:
        raise UserError("export to hub needs huggingface_hub: pip install 'convatlas[hf]'") from None
    card = classifier.metadata
    data, top1 = str(card.provenance.get("data", "")), card.metrics.get("test_top1")
    results = []
    if data and top1 is not None:
        accuracy = round(top1 / 100, 6)
        results = [EvalResult("image-classification", data, data, "accuracy", accuracy, "Image classification", dataset_split="test")]
    header = ModelCardData(
        library_name="convatlas",
        pipeline_tag="image-classification",
        tags=[card.network.name, "image-classification"],
        model_name=_title(card) if results else None,
        eval_results=results or None,
    )
    text = ModelCard.from_template(
        header,
        template_str=TEMPLATE,
        title=_title(card),
        about=_about(card),
        facts=_facts(card),
        metrics=_metrics(card),
        classes=_classes(card),
        limits=_limits(card),
    )
    with atomic_output(path) as new:
        new.mkdir()
        write_classifier(classifier, new / "model.safetensors")
        atomic_write(new / "config.json", to_json(_config(card), indent=2))
        atomic_write(new / "README.md", (str(text).rstrip() + "\n").encode())
    return Exported(path, 0.0)


def _config(card: ClassifierMetadata) -> dict[str, Any]:
    return {
        "architectures": [card.network.name],
        "model_type": "convatlas",
        "num_channels": card.preprocessing.channels,
        "image_size": list(card.preprocessing.size),
        "id2label": {str(number): name for number, name in enumerate(card.classes)},
        "label2id": {name: number for number, name in enumerate(card.classes)},
        "convatlas": card,
    }


def _title(card: ClassifierMetadata) -> str:
    data = card.provenance.get("data")
    return f"{card.network.name} on {_plain(data)}" if data else card.network.name


def _about(card: ClassifierMetadata) -> str:
    entry = models.get_entry(card.network.name)
    edition = "as its paper prints it" if card.network.edition == "paper" else f"in the edition of {card.network.edition}"
    where = f"Imported from {_plain(card.provenance['imported'])}." if "imported" in card.provenance else "Trained with ConvAtlas."
    return f"{card.network.name} ({entry.paper}, {entry.year}; {entry.source}), {edition}, for {len(card.classes):,} classes. {where}"


def _facts(card: ClassifierMetadata) -> dict[str, str]:
    geometry, provenance = card.preprocessing, card.provenance
    network = models.build(card.network)
    default = models.get_architecture(card.network.name, card.network.edition).arguments
    changed = {name: value for name, value in card.network.arguments.items() if value != default[name]}
    fitted = FITTED[geometry.fit].format(_size(geometry.size))
    facts = {
        "parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "unlike the paper": ", ".join(f"{name} {_plain(value)}" for name, value in changed.items()) or "nothing",
        "images": f"{'RGB' if geometry.channels == 3 else 'grey'}, brought to {_size(geometry.source)}{fitted}",
    }
    facts |= {name: _plain(provenance[name]) for name in ("data", "recipe", "seed", "run", "source", "torch") if name in provenance}
    return facts | {"precision of the training": card.precision}


def _metrics(card: ClassifierMetadata) -> dict[str, str]:
    metrics, found = card.metrics, {}
    n = metrics.get("test_n")
    if n and "test_top1" in metrics:
        from scipy.stats import binomtest

        interval = binomtest(round(metrics["test_top1"] * n / 100), n).proportion_ci(method="wilson")
        found["top-1, test"] = (
            f"{metrics['test_top1']:.2f} % (95 % interval {100 * interval.low:.2f} to {100 * interval.high:.2f}, {n:,} images)"
        )
    names = {"test_top5": "top-5, test", "val_top1": "top-1, validation"}
    found |= {text: f"{metrics[name]:.2f} %" for name, text in names.items() if metrics.get(name) is not None}
    return found | ({"mean negative log-likelihood, test": f"{metrics['test_loss']:.4f}"} if "test_loss" in metrics else {})


def _classes(card: ClassifierMetadata) -> str:
    names = [_plain(name) for name in card.classes[:MOST_CLASSES]]
    more = len(card.classes) - len(names)
    return ", ".join(names) + (f", and {more:,} more in `config.json`." if more else ".")


def _limits(card: ClassifierMetadata) -> list[str]:
    size = _size(card.preprocessing.size)
    lines = [
        f"It answers every image with one of its {len(card.classes):,} classes, whatever the image shows.",
        f"It sees {size} pixels: what is smaller than a pixel there is not seen.",
    ]
    if "data" in card.provenance:
        lines.append(f"Its accuracy holds for images like those of {_plain(card.provenance['data'])}; of others nothing is known.")
    if card.metrics.get("test_top1") is not None:
        lines.append("The accuracy is of one training with one seed; the interval tells of other images, not of other seeds.")
    lines.append("Its probabilities are the softmax of its logits, not calibrated afterwards.")
    lines.append("Nobody has looked for unfair or harmful answers.")
    return lines


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _plain(value: object) -> str:
    """Names from files and folders, harmless in Markdown."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>#|!" else character for character in text)
