"""The script beside an export classifies an image file without ConvAtlas, as `predict` does."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.export import formats
from convatlas.export.script import onnx_script
from convatlas.inference import onnx, openvino

needs_onnx = pytest.mark.skipif(onnx.missing_requirement() is not None, reason="ONNX is not installed")
needs_openvino = pytest.mark.skipif(openvino.missing_requirement() is not None, reason="no OpenVINO")
Mode = Literal["none", "pad", "resize", "crop"]
GEOMETRIES: list[tuple[Mode, tuple[int, int], tuple[int, int]]] = [
    ("none", (32, 32), (32, 32)),
    ("pad", (28, 30), (32, 32)),
    ("pad", (29, 31), (32, 32)),
    ("resize", (20, 24), (32, 32)),
    ("crop", (37, 40), (32, 32)),
]


def classifier_of(mode: Mode, resize: tuple[int, int], size: tuple[int, int], channels: int) -> Classifier:
    torch.manual_seed(0)
    model = ca.create_model("resnet20_cifar", width=0.25, in_chans=channels)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
    preprocessing = Preprocessing(channels=channels, resize_size=resize, input_size=size, mode=mode)
    names = [f"class {number}" for number in range(10)]
    return Classifier.from_module(model, names, preprocessing, mean=0.4, std=0.2)


def photo(folder: Path, name: str = "photo.png") -> Path:
    """Smooth colours, taller than wide: resizing hardly changes them."""
    y, x = np.mgrid[0:90, 0:70] / 90
    pixels = np.stack([127 + 120 * np.sin(5 * x), 255 * y * x, 127 + 120 * np.cos(4 * y)], 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(folder / name, exif=exif)
    return folder / name


def run_script(script: Path, image: Path) -> tuple[str, float]:
    """The class and its percentage, from a process that must not import ConvAtlas or PyTorch."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]);"
    code += "assert not {'torch', 'convatlas'} & {name.split('.')[0] for name in sys.modules}"
    command = [sys.executable, "-c", code, str(script), str(image)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=image.parent).stdout
    match = re.fullmatch(r"(class \d) ([\d.]+) %\n", printed)
    assert match is not None, printed
    return match[1], float(match[2])


@needs_onnx
def test_the_script_beside_onnx_prints_the_class_that_predict_gives(tmp_path: Path) -> None:
    classifier = classifier_of("crop", (37, 40), (32, 32), 3)
    image = photo(tmp_path)
    formats.to_onnx(classifier, formats.random_images(classifier), tmp_path / "net's.onnx")
    name, percent = run_script(tmp_path / "net's_classify.py", image)
    (((expected, probability),),) = classifier.predict(image, top=1, engine="eager")
    assert name == expected
    assert percent == pytest.approx(100 * probability, abs=1)


@needs_openvino
def test_the_script_in_openvinos_folder_prints_the_class_that_predict_gives(tmp_path: Path) -> None:
    classifier = classifier_of("pad", (28, 30), (32, 32), 3)
    image = photo(tmp_path)
    formats.to_openvino(classifier, formats.random_images(classifier), tmp_path / "ir")
    name, percent = run_script(tmp_path / "ir" / "classify.py", image)
    (((expected, probability),),) = classifier.predict(image, top=1, engine="eager")
    assert name == expected
    assert percent == pytest.approx(100 * probability, abs=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "resize", "size"), GEOMETRIES)
def test_the_scripts_pixels_are_those_of_the_preprocessing(
    mode: Mode, resize: tuple[int, int], size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    preprocessing = Preprocessing(channels=channels, resize_size=resize, input_size=size, mode=mode)
    text = onnx_script(preprocessing, "model.onnx")
    lines = text[text.index("image = ") : text.index("# the network itself")].replace("sys.argv[1]", "FILE")
    program = tmp_path / "pixels.py"
    head = "import sys\nimport numpy as np\nfrom PIL import Image, ImageOps\nFILE, OUT = sys.argv[1:]\n"
    program.write_text(f"{head}{lines}np.save(OUT, pixels)\n")
    file = photo(tmp_path)
    subprocess.run([sys.executable, str(program), str(file), str(tmp_path / "pixels.npy")], check=True)
    pixels = np.load(tmp_path / "pixels.npy")
    from convatlas.data.images.decode import open_image

    expected = preprocessing.transform(open_image(file))[None].numpy()
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # two libraries round differently


@needs_onnx
def test_the_opset_is_the_requested_one(tmp_path: Path) -> None:
    import onnx as library

    names = [str(number) for number in range(10)]
    classifier = Classifier.from_module(ca.create_model("lenet5"), names, 32, mean=0, std=1)
    for opset in (formats.OPSETS[0], formats.OPSETS[-1]):
        document = ca.export.export_classifier(classifier, "onnx", tmp_path / f"{opset}.onnx", opset=opset)
        assert document["difference"] < 1e-3
        (version,) = [
            entry.version
            for entry in library.load(str(tmp_path / f"{opset}.onnx")).opset_import
            if not entry.domain
        ]
        assert version == opset
