"""Every engine computes what the network does, and says why it was chosen."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.networks import HUGE, randomize_to_unit_signal, randomize_weights, small_model
from torch import Tensor, nn

import convatlas as ca
from convatlas import models
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError
from convatlas.inference import eager, graph, onnx, openvino, selection
from convatlas.inference.parity import check_parity
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision
from convatlas.storage.cache import cached_folder

needs_openvino = pytest.mark.skipif(
    openvino.missing_requirement() is not None, reason="OpenVINO is not installed"
)
needs_onnx = pytest.mark.skipif(
    onnx.missing_requirement() is not None, reason="ONNX Runtime is not installed"
)
BF16 = best_precision(torch.device("cpu")) == "bf16"

# One network of each family; the Inceptions after GoogLeNet take 15 s to convert, and are left to the slow
# tests
FAMILIES = [
    "lenet5",
    "alexnet",
    "zfnet",
    "vgg11_lrn",
    "googlenet",
    "resnet20_cifar",
    "resnetv2_50",
    "se_mobilenet_v1",
    "mobilenet_v1",
]
FAMILIES += ["xception", "shufflenet_v1", "shufflenet_v2", "fcn8s", "unet"]
LIGHT = ["lenet5", "vgg11_lrn", "resnet20_cifar", "fcn8s", "unet"]  # conversion to ONNX takes twice as long
ALL = [name for name in models.list_models() if name not in HUGE]


def rows(quick: list[str]) -> list[object]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in ALL]


def prepare(name: str) -> tuple[graph.InferenceModule, Tensor, Tensor]:
    """A network at a quarter of its width, three images, and its logits."""
    model, images = small_model(name)
    randomize_to_unit_signal(model, images)
    with torch.inference_mode():
        return graph.prepare_module(model), images, model(images)


def difference(logits: Tensor, expected: Tensor) -> float:
    assert logits.shape == expected.shape
    assert logits.dtype == torch.float32
    return float((logits - expected).abs().max() / expected.abs().max())


@needs_openvino
@pytest.mark.parametrize("name", rows(FAMILIES))
def test_openvino_and_pytorch_agree_on_every_network(name: str) -> None:
    module, images, expected = prepare(name)
    assert difference(eager.build(module, images, "fp32")(images), expected) < 1e-5
    assert difference(openvino.build(module, images, "fp32")(images), expected) < 1e-3
    if (
        BF16 and name != "plain110_cifar"
    ):  # 110 layers without shortcuts: the coarser rounding grows to a third of the logits
        assert difference(eager.build(module, images, "bf16")(images), expected) < 0.05
        assert difference(openvino.build(module, images, "bf16")(images), expected) < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("name", rows(FAMILIES))
def test_a_cuda_device_and_a_cpu_agree_on_every_network(name: str, cuda: torch.device) -> None:
    module, images, expected = prepare(name)
    moved = graph.prepare_module(module.eager.to(cuda))
    assert difference(eager.build(moved, images, "fp32")(images), expected) < 1e-3
    assert difference(eager.build(moved, images, "bf16")(images), expected) < 0.05
    assert selection.engine(moved.eager, images, precision="fp32").name == "eager"


@needs_onnx
@pytest.mark.parametrize("name", rows(LIGHT))
def test_onnx_runtime_agrees_on_every_network(name: str) -> None:
    module, images, expected = prepare(name)
    assert difference(onnx.build(module, images, "fp32")(images), expected) < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler warns of torch's own parts
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_networks_agree(name: str) -> None:
    module, images, expected = prepare(name)
    assert difference(selection.ENGINES["compile"].build(module, images, "fp32")(images), expected) < 1e-3
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    ["eager", pytest.param("openvino", marks=needs_openvino), pytest.param("onnx", marks=needs_onnx), "auto"],
)
def test_every_engine_gives_a_trained_networks_logits(name: str, trained: Classifier, digits: Tensor) -> None:
    with torch.inference_mode():
        expected = trained.model(trained.normalizer(digits)).float()
    fp32 = ca.inference.engine(trained.inference_module(), digits, name, precision="fp32")
    assert difference(fp32(digits), expected) < 1e-3
    best = ca.inference.engine(trained.inference_module(), digits, name)(digits)
    assert (best.argmax(1) == expected.argmax(1)).float().mean() >= 0.99


def test_eager_gives_the_bits_of_an_evaluation(trained: Classifier, digits: Tensor) -> None:
    module = graph.prepare_module(trained.inference_module())
    logits = eager.build(module, digits, trained.runtime.precision)(digits)
    assert torch.equal(
        logits, torch.cat([trained.logits(batch) for batch in torch.split(digits, eager.MAX_BATCH)])
    )


@pytest.mark.parametrize(
    "name", ["eager", pytest.param("openvino", marks=needs_openvino), pytest.param("onnx", marks=needs_onnx)]
)
def test_any_number_of_images_gives_the_logits_of_each_alone(
    name: str, trained: Classifier, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # so that several requests run at once
    infer = ca.inference.engine(trained.inference_module(), digits, name, precision="fp32")
    alone = torch.cat([infer(image[None]) for image in digits[:41]])
    for count in (2, 4, 11, 12, 13, 24, 31, 41):
        assert difference(infer(digits[:count]), alone[:count]) < 1e-4, count


def test_images_of_another_size_or_type_are_refused(trained: Classifier, digits: Tensor) -> None:
    infer = ca.inference.engine(trained.inference_module(), digits, "eager")
    for images in (digits.float(), digits[:, :, 1:], digits[:0]):
        with pytest.raises(
            UsageError, match=r"built for images \(1 or more, 1, 32, 32\) of torch.uint8, not "
        ):
            infer(images)
    with pytest.raises(UsageError, match="unknown engine 'openvin': the nearest is 'openvino'"):
        ca.inference.engine(trained.inference_module(), digits, "openvin")
    with pytest.raises(UsageError, match="the example should be images"):
        ca.inference.engine(trained.inference_module(), digits[0], "eager")


def test_the_callers_module_is_copied() -> None:
    model, images = small_model("resnet20_cifar")
    randomize_weights(model).train()
    infer = ca.inference.engine(model, images, "eager", precision="fp32")
    before = infer(images)
    assert model.training
    assert all(
        parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters()
    )
    randomize_weights(model, seed=1)
    assert torch.equal(infer(images), before)


def fake_build(
    infer: Callable[[Tensor], Tensor],
) -> Callable[[graph.InferenceModule, Tensor, str], Callable[[Tensor], Tensor]]:
    return lambda module, example, precision: infer


class TestAuto:
    """`auto` takes the fastest engine that is installed and agrees, and says why."""

    def test_a_missing_engine_is_skipped_and_named_with_its_package(
        self, trained: Classifier, digits: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for engine in (openvino, onnx):
            monkeypatch.setattr(f"{engine.__name__}.find_spec", lambda name: None)
        infer = ca.inference.engine(trained.inference_module(), digits)
        assert infer.name == "eager"
        assert "openvino needs OpenVINO: pip install 'convatlas[openvino]'" in infer.why
        with pytest.raises(
            UserError,
            match=r"onnx needs onnx and onnxscript and onnxruntime: pip install 'convatlas\[onnx\]'",
        ):
            ca.inference.engine(trained.inference_module(), digits, "onnx")

    @needs_openvino
    def test_an_engine_that_does_not_agree_is_skipped(
        self, trained: Classifier, digits: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            openvino,
            "build",
            fake_build(lambda images: torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]),
        )
        monkeypatch.setattr(onnx, "find_spec", lambda name: None)
        infer = ca.inference.engine(trained.inference_module(), digits)
        assert infer.name == "eager"
        assert "openvino does not agree with PyTorch: the same class for " in infer.why
        with pytest.raises(UserError, match="the engine openvino does not agree with PyTorch"):
            ca.inference.engine(trained.inference_module(), digits, "openvino")

    @needs_openvino
    def test_an_engine_that_cannot_convert_the_module_is_skipped(self) -> None:
        class DataDependent(torch.nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.mean((2, 3)) * float(images.sum() > 0)  # cannot be traced

        images = torch.rand(4, 3, 8, 8)
        infer = ca.inference.engine(DataDependent(), images, precision="fp32")
        assert infer.name == "eager"
        assert "openvino cannot run this network (" in infer.why
        assert "\n" not in infer.why
        assert torch.equal(infer(images), images.mean((2, 3)))
        with pytest.raises(UserError, match="the engine openvino cannot run this network"):
            ca.inference.engine(DataDependent(), images, "openvino")

    @needs_openvino
    @pytest.mark.parametrize(("seconds", "chosen"), [(1.0, "openvino"), (4.0, "eager")])
    def test_the_faster_engine_is_chosen(
        self,
        seconds: float,
        chosen: str,
        trained: Classifier,
        digits: Tensor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(onnx, "find_spec", lambda name: None)
        monkeypatch.setattr(
            selection, "_seconds", lambda run, images: seconds if isinstance(run, openvino.Runner) else 2.0
        )
        infer = ca.inference.engine(trained.inference_module(), digits)
        assert infer.name == chosen
        assert (
            "2.0 times as fast as PyTorch" if chosen == "openvino" else "openvino is 2.0 times slower"
        ) in infer.why


def test_parity_in_bf16_tolerates_ties_of_fp32_alone() -> None:
    expected = torch.tensor([[1.0, 0.999, 0.0], [0.0, 1.0, 0.5]])
    swapped, wrong = expected.clone(), expected.clone()
    swapped[0, 0] = 0.998
    wrong[1] = torch.tensor([0.0, 0.5, 1.0])
    assert check_parity(swapped, expected, "bf16").enough
    assert check_parity(swapped, expected, "bf16").same_class == 0.5
    assert not check_parity(swapped, expected, "fp32").enough
    assert not check_parity(wrong, expected, "bf16").enough
    assert not check_parity(torch.full((2, 3), torch.nan), expected, "bf16").enough
    assert not check_parity(expected[:1], expected, "fp32").enough


class TestCache:
    """A converted graph is cached, and used again only if it is whole."""

    def test_a_second_start_reads_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("openvino")
        monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
        module, images, expected = prepare("lenet5")
        openvino.build(module, images, "fp32")
        monkeypatch.setattr(openvino, "convert", None)
        assert difference(openvino.build(module, images, "fp32")(images), expected) < 1e-3
        assert (tmp_path / "engines").stat().st_mode & 0o077 == 0
        other = randomize_weights(small_model("lenet5")[0], seed=1).eval()
        with pytest.raises(TypeError):  # other weights are another network
            openvino.build(graph.prepare_module(other), images, "fp32")

    def test_a_damaged_entry_is_written_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
        written: list[Path] = []

        def make(folder: Path) -> None:
            (folder / "graph").write_bytes(b"whole")
            written.append(folder)

        folder = cached_folder("engines", "name", make)
        assert folder is not None
        assert cached_folder("engines", "name", make) == folder
        assert len(written) == 1
        (folder / "graph").write_bytes(b"whale")
        assert cached_folder("engines", "name", make) == folder
        assert (folder / "graph").read_bytes() == b"whole"
        assert len(written) == 2

    def test_without_a_cache_the_engine_is_built_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("openvino")
        (tmp_path / "file").touch()
        monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "file"))
        module, images, expected = prepare("lenet5")
        assert difference(openvino.build(module, images, "fp32")(images), expected) < 1e-3

    def test_a_foreign_module_works_without_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("openvino")
        monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)
        )
        images = torch.randn(5, 3, 8, 8)
        infer = ca.inference.engine(model, images, "openvino", precision="fp32")
        with torch.inference_mode():
            assert difference(infer(images), model(images)) < 1e-3
        assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    "build", [pytest.param(openvino.build, marks=needs_openvino), pytest.param(onnx.build, marks=needs_onnx)]
)
@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(4, 3, 1, ceil_mode=True), nn.MaxPool2d(2)]
)
def test_pooling_windows_larger_than_the_input_give_pytorchs_result(build: Any, pool: nn.Module) -> None:
    images = -torch.rand(3, 2, 2, 5)  # negative: padding with zeros would be noticed
    assert torch.equal(build(graph.prepare_module(pool), images, "fp32")(images), pool(images))


@needs_openvino
def test_openvino_runs_without_its_telemetry(tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from convatlas.inference import graph, openvino\n"
        "images = torch.randn(2, 3, 8, 8)\n"
        "openvino.build(graph.prepare_module(torch.nn.Conv2d(3, 4, 3)), images, 'fp32')(images)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])\n"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\n"
    assert not (tmp_path / "intel").exists()


@needs_openvino
def test_a_signal_is_handled_after_an_engine_ended_in_another_thread() -> None:
    program = (
        "import gc, signal, threading, torch\n"
        "from convatlas.inference import graph, openvino\n"
        "images = torch.randn(2, 3, 8, 8)\n"
        "engines = [openvino.build(graph.prepare_module(torch.nn.Conv2d(3, 4, 3)), images, 'fp32')]\n"
        "engines[0](images)\n"
        "thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: print('handled'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "handled\n"
