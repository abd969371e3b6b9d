"""Import another library's weights as a classifier: its network, its classes and the preprocessing that the
weights were trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convatlas import models
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata
from convatlas.data.sources.class_names import imagenet_class_names, list_class_names
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.ambiguous_networks import assumed_exclusions, is_known_architecture
from convatlas.interop.candidates import Candidate, Request
from convatlas.interop.hub_config import WeightsConfig, read_weights_config
from convatlas.interop.identify import identify
from convatlas.interop.input_options import InputOptions, choose_normalizer, choose_preprocessing
from convatlas.interop.load_weights import copy_matched, summarize_paths
from convatlas.interop.remote_weights import RemoteWeights, fetch_remote, is_remote
from convatlas.interop.state_dict_match import SOURCES, match_state_dict
from convatlas.interop.weight_file import WeightFile, read_weight_file, weights_sha256
from convatlas.storage.records import parse_assignment

IMAGENET = "imagenet"  # instead of a file of class names


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about weights: what is left out is read from them, or assumed.

    `classes` is a file of class names, or "imagenet". `arguments` are those of the network, such as width.
    """

    model: str | None = None
    edition: str | None = None
    classes: str | Path | None = None
    images: InputOptions = field(default_factory=InputOptions)
    arguments: Mapping[str, Any] = field(default_factory=dict)


def import_classifier(
    file: str | Path,
    model: str | None = None,
    edition: str | None = None,
    classes: str | Path | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **arguments: Any,
) -> Classifier:
    """Read weights of torchvision, timm or pytorchcv (or a state dict of the atlas) as a classifier.

    `file` is a file, "hf:REPO[@REVISION]" of the Hugging Face Hub, or "torchvision:NAME" for weights that
    torchvision publishes; only these two use the network. Without `model`, the network is the one whose
    tensors have these names and shapes. `classes` is a file of class names or "imagenet"; without it, 1,000
    classes of a library's network are ImageNet's, and others are numbers. `size` is the side of the images in
    pixels; `mean` and `std` are the statistics, per channel, of pixels from 0 to 1; `arguments` are the
    network's, such as `width`. What is left out is assumed: `metadata.provenance["assumed"]` says so.

    Raises UsageError when several networks fit that compute different things, UserError when the weights fit
    none or the file cannot be used.
    """
    images = InputOptions(size, mean, std)
    return import_weights(file, ImportOptions(model, edition, classes, images, arguments))


def import_weights(file: str | Path, options: ImportOptions) -> Classifier:
    """As `import_classifier`, with the options in a record."""
    if options.model is not None:
        if models.get_entry(options.model, options.edition or "paper").task != "classification":
            raise UsageError(
                f"{options.model} labels every pixel: import takes networks that classify images, "
                "load_weights takes any"
            )
        edition = options.edition or _edition_that_has(options.model, options.arguments)
        models.get_architecture(options.model, edition, **options.arguments)
    remote = fetch_remote(str(file)) if is_remote(str(file)) else None
    path = remote.file if remote is not None else Path(file)
    config = remote.config if remote is not None else read_weights_config(path)
    weights = read_weight_file(path)
    name = printable(remote.name if remote is not None else path)
    sha256 = weights_sha256(path)
    if weights.model_file is not None:
        if remote is None:
            raise UsageError(
                f"{name} is a classifier of ConvAtlas already: use it as it is, with predict or eval"
            )
        metadata, model, normalizer = weights.model_file
        origin = {"source": "convatlas", "sha256": sha256, "assumed": []} | remote.provenance
        return Classifier(metadata.replace(provenance=metadata.provenance | origin), model, normalizer)
    return _classifier_of(weights, name, sha256, options, config, remote)


def _classifier_of(
    weights: WeightFile,
    name: str,
    sha256: str,
    options: ImportOptions,
    config: WeightsConfig | None,
    remote: RemoteWeights | None,
) -> Classifier:
    _refuse_absent_network(config, options)
    request = Request(options.model, options.edition, options.arguments, options.images.size, weights.config)
    identified = identify(weights.tensors, name, request)
    architecture = identified.architecture
    source = identified.match.source
    mapping = SOURCES[source].get(architecture.name) if source in SOURCES else None
    preprocessing, assumed_size = choose_preprocessing(identified.network, mapping, options.images, config)
    normalizer, assumed_statistics = choose_normalizer(
        identified.network.in_chans, mapping, options.images, config
    )
    class_names, assumed_classes = _choose_classes(identified, options.classes, config, name)
    network = models.build(architecture)
    # the whole file once more, now that the network is known: to say which part was taken, and what was not
    match = match_state_dict(network, weights.content, source, config=weights.config)
    if match is not None and match.exact:
        copy_matched(network, weights.content, match, name)
    else:
        match = identified.match
        copy_matched(network, weights.tensors, match, name)
    provenance: dict[str, Any] = {
        "imported": Path(name).name if remote is None else remote.name,
        "sha256": sha256,
        "source": source,
        "part": printable(match.part),
        "ignored": summarize_paths(match.ignored, match.part),
        "assumed": [
            *assumed_size,
            *assumed_statistics,
            *assumed_classes,
            *(
                assumed_exclusions(source, architecture.name)
                if config is None and options.model is None
                else ()
            ),
        ],
    }
    metadata = ClassifierMetadata(
        format=FORMAT,
        network=architecture,
        classes=class_names,
        preprocessing=preprocessing,
        precision="fp32",
        batch=32,
        provenance=provenance | (remote.provenance if remote is not None else {}),
        metrics={},
    )
    return Classifier(metadata, network, normalizer)


def _choose_classes(
    identified: Candidate, classes: str | Path | None, config: WeightsConfig | None, name: str
) -> tuple[tuple[str, ...], list[str]]:
    """The names of the classes, and what is assumed of them, in words."""
    num_classes = int(identified.architecture.arguments["num_classes"])  # type: ignore[arg-type]
    if classes is not None:
        if str(classes) == IMAGENET:
            return imagenet_class_names(num_classes), []
        return list_class_names(Path(classes), num_classes, name), []
    if config is not None and config.classes is not None:
        if len(config.classes) != num_classes:
            raise UserError(
                f"{config.source} names {len(config.classes):,} classes, but the weights of {name} are for "
                f"{num_classes:,}: name them with --classes FILE"
            )
        if len(set(config.classes)) == num_classes:
            return config.classes, []
        if num_classes not in (1000, 1001):
            return _numbered_duplicates(config.classes), []
    if identified.match.source != "convatlas" and num_classes in (1000, 1001):
        background = ", the first the background" if num_classes == 1001 else ""
        return imagenet_class_names(num_classes), [f"the {num_classes:,} classes of ImageNet{background}"]
    return tuple(map(str, range(num_classes))), []


def _numbered_duplicates(classes: Sequence[str]) -> tuple[str, ...]:
    """The names, those of several classes with their indices appended."""
    return tuple(
        f"{name} ({index})" if classes.count(name) > 1 else name for index, name in enumerate(classes)
    )


def _refuse_absent_network(config: WeightsConfig | None, options: ImportOptions) -> None:
    """Raise UserError for weights of a network of timm whose tensors look like those of another."""
    if config is None or config.architecture is None or options.model is not None:
        return
    if not is_known_architecture(config.architecture):
        raise UserError(
            f"{config.source} names the network {printable(config.architecture)}, which the atlas does not "
            "have: if the weights are for another one, name it with --model"
        )


def _edition_that_has(model: str, arguments: Mapping[str, Any]) -> str:
    """The first edition that takes these arguments; the paper's where none does."""
    for edition in models.editions(model):
        if all(name in models.get_entry(model).default_arguments(edition) for name in arguments):
            return edition
    return "paper"


def parse_arguments(assignments: Sequence[str]) -> dict[str, Any]:
    """Arguments of a network from `width=0.5` or `model.arguments.width=0.5`. Raises UsageError."""
    arguments: dict[str, Any] = {}
    for assignment in assignments:
        path, value = parse_assignment(assignment, "width=0.5")
        name = path.removeprefix("model.").removeprefix("arguments.")
        if "." in name:
            raise UsageError(
                f"--set {printable(assignment)}: import sets arguments of the network alone, such as "
                "width=0.5"
            )
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return arguments
