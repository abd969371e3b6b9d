"""The rows of `bench inference`: how each of them classifies, or labels the pixels of, a batch of images or a
folder of JPEGs."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from convatlas import models
from convatlas.benchmark.mask_rows import label_by_segmenter, label_file_by_file
from convatlas.benchmark.peers import import_peer, is_installed, torchvision_has
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, tile_preprocessing
from convatlas.errors import UserError
from convatlas.export import quantization
from convatlas.inference import openvino, selection
from convatlas.inference.graph import prepare_module
from convatlas.runtime import hardware
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.runtime import Runtime
from convatlas.storage.cache import cached_folder, folder_key

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# (model's name, its network, uint8 images) -> a function that classifies the images
BatchRow = Callable[[str, models.Network, Tensor], Callable[[], Any]]
# (model's name, its network, JPEG files) -> a function that classifies the files and returns their number
FilesRow = Callable[[str, models.Network, list[Path]], Callable[[], int]]


def labels_pixels(model: str) -> bool:
    return models.get_entry(model).task == "segmentation"


def create_network(model: str) -> models.Network:
    """The untrained network: torchvision's edition of it, where there is one."""
    edition = "torchvision" if "torchvision" in models.editions(model) else "paper"
    return models.create_model(model, edition).eval()


def untrained_classifier(model: str) -> Classifier:
    """A classifier with random weights, which is as fast as a trained one."""
    torch.manual_seed(0)
    return make_classifier(model, create_network(model))


def make_classifier(model: str, network: models.Network) -> Classifier:
    assert network.architecture is not None
    channels, height, width = models.get_entry(model).input
    num_classes = int(network.architecture.arguments["num_classes"])  # type: ignore[arg-type]
    if labels_pixels(model):
        preprocessing = tile_preprocessing(channels, (height, width), network.margin, network.stride)
    else:
        preprocessing = center_crop_preprocessing(channels, (height, width), 256 / 224)
    metadata = ClassifierMetadata(
        format=FORMAT,
        network=network.architecture,
        classes=tuple(map(str, range(num_classes))),
        preprocessing=preprocessing,
        precision="fp32",
        batch=BATCH,
        provenance={},
        metrics={},
    )
    mean, std = (torch.tensor(values)[:channels, None, None] for values in (MEAN, STD))
    return Classifier(metadata, network, Normalizer(mean, std))


def _baseline_network(model: str, network: models.Network) -> nn.Module:
    """torchvision's network where it has one and is installed, else ours."""
    if not torchvision_has(model):
        return network
    baseline: nn.Module = getattr(import_peer("torchvision.models"), model)(weights=None).eval()
    return baseline


# Rows that classify a batch


def _eager_baseline(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
    device = select_device()
    baseline = _baseline_network(model, network).to(device)
    batch = (images.float() / 255).to(device)
    return _synchronized(device, lambda: baseline(batch))


def _compiled_baseline(library: str) -> BatchRow:
    """torchvision's or timm's network, run on a GPU as ours is."""

    def make(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
        device = select_device()
        runtime = Runtime(device, best_precision(device))
        if library == "timm":
            baseline = import_peer("timm").create_model(model).eval()
        else:
            baseline = _baseline_network(model, network)
        compiled = torch.compile(runtime.to_device(baseline))
        batch = (images.float() / 255).to(device, memory_format=torch.channels_last)

        def classify() -> Tensor:
            with runtime.autocast():
                logits: Tensor = compiled(batch)
            return logits

        return _synchronized(device, classify)

    return make


def _synchronized(device: torch.device, classify: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def classify_and_wait() -> Tensor:
        logits = classify()
        hardware.synchronize(device)
        return logits

    return classify_and_wait


def _openvino_direct(model: str, network: models.Network, images: Tensor) -> Callable[[], Any]:
    ov = openvino.library()
    batch = images.float() / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ov.convert_model(_baseline_network(model, network), example_input=batch)
    converted.reshape(list(batch.shape))
    bf16 = best_precision(select_device("cpu")) == "bf16"
    compiled = ov.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"} if bf16 else {})
    values = batch.numpy()
    return lambda: compiled(values)[0]


def _engine(name: str) -> BatchRow:
    def make(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
        infer = selection.engine(make_classifier(model, network).inference_module(), images, name)
        return lambda: infer(images)

    return make


def _int8(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
    ov = openvino.library()
    module = prepare_module(make_classifier(model, network).inference_module())

    def quantize(folder: Path) -> None:
        openvino.write_model(quantization.quantize(module, images, [images]), folder / "graph.xml", {})

    folder = cached_folder("engines", folder_key(module.key, "bench int8", ov.__version__), quantize)
    if folder is None:
        raise UserError("the cache cannot be written: name another folder in CONVATLAS_CACHE")
    runner = openvino.Runner(openvino.read_model(folder / "graph.xml"), best_precision(select_device("cpu")))
    return lambda: runner(images)


BATCH_ROWS: dict[str, BatchRow] = {
    "baseline": _eager_baseline,
    "baseline-tuned": _eager_baseline,
    "baseline-compiled": _compiled_baseline("torchvision"),
    "timm-compiled": _compiled_baseline("timm"),
    "eager": _engine("eager"),
    "compile": _engine("compile"),
    "onnx": _engine("onnx"),
    "openvino-direct": _openvino_direct,
    "auto": _engine("auto"),
    "int8": _int8,
}


# Rows that classify files


def _torchvision_preprocess(model: str) -> Callable[[Any], Tensor]:
    if not is_installed("torchvision"):
        raise UserError("this row runs torchvision's script, and torchvision is not installed: make peers")
    v2 = import_peer("torchvision.transforms.v2")
    channels, height, _ = models.get_entry(model).input
    resize = [v2.Resize(height * 256 // 224), v2.CenterCrop(height)]
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    preprocess: Callable[[Any], Tensor] = v2.Compose(
        [*resize, *to_float, v2.Normalize(mean=list(MEAN[:channels]), std=list(STD[:channels]))]
    )
    return preprocess


def _mode(model: str) -> str:
    """Pillow's name of the network's channels."""
    return "L" if models.get_entry(model).input[0] == 1 else "RGB"


def _file_by_file(model: str, network: models.Network, files: list[Path]) -> Callable[[], int]:
    if labels_pixels(model):
        return label_file_by_file(network, _mode(model), files)
    preprocess = _torchvision_preprocess(model)
    baseline = _baseline_network(model, network)

    def classify() -> int:
        for file in files:
            batch = preprocess(Image.open(file).convert(_mode(model))).unsqueeze(0)
            probabilities = baseline(batch).squeeze(0).softmax(0)
            probabilities.argmax().item()
        return len(files)

    return classify


def _data_loader(model: str, network: models.Network, files: list[Path]) -> Callable[[], int]:
    preprocess = _torchvision_preprocess(model)
    baseline = _baseline_network(model, network)

    class Photos(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Tensor:
            return preprocess(Image.open(files[index]).convert(_mode(model)))

    loader = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=2, persistent_workers=True)

    def classify() -> int:
        for batch in loader:
            baseline(batch).softmax(1).argmax(1).tolist()
        return len(files)

    return classify


def _predict(model: str, network: models.Network, files: list[Path]) -> Callable[[], int]:
    classifier = make_classifier(model, network)
    if labels_pixels(model):
        return label_by_segmenter(classifier, files)
    return lambda: sum(
        not isinstance(prediction, UserError) for _, prediction in classifier.predict_iter(files)
    )


FILES_ROWS: dict[str, FilesRow] = {
    "baseline": _file_by_file,
    "baseline-tuned": _file_by_file,
    "dataloader": _data_loader,
    "auto": _predict,
}
