"""Every network as code of others takes it: traced by torch.fx, compiled, exported, on meta tensors."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import peers
from helpers.networks import DEEP, HUGE, calibrate_batch_norm, small_model
from torch import Tensor, nn

from convatlas import models
from convatlas.errors import UsageError

PAIRS = [(name, edition) for name in models.list_models() for edition in models.editions(name)]


def with_slow_marks(pairs: list[tuple[str, str]], slow: tuple[str, ...]) -> list[Any]:
    return [pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in slow else pair for pair in pairs]


@pytest.mark.parametrize(("name", "edition"), with_slow_marks(PAIRS, HUGE + DEEP))
def test_torch_fx_traces_it_with_the_same_outputs(name: str, edition: str) -> None:
    model, images = small_model(name, edition=edition)
    calibrate_batch_norm(model, images)
    traced = torch.fx.symbolic_trace(model)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    with torch.inference_mode():
        assert torch.equal(traced(images), model(images))
    wrong_channels = torch.zeros(1, model.in_chans + 1, *images.shape[2:])
    with pytest.raises(UsageError, match=f"{name} was built for images of {model.in_chans} channels"):
        traced(wrong_channels)


# of each family a module in the middle; of other networks the last layer, with `make test-all`
PATHS = {
    "lenet5": "C3",
    "alexnet": "pool5",
    "zfnet": "pool5",
    "vgg16_bn": "pool4",
    "googlenet": "inception_4a",
    "bn_inception": "inception_4a",
    "inception_v3": "Mixed_6e",
    "resnet18": "conv4_x.1",
    "resnetv2_50": "conv3_x.0",
    "se_resnet50": "conv3_x.0",
    "mobilenet_v1": "block6",
    "xception": "middle_flow",
    "shufflenet_v1": "stage3",
    "shufflenet_v2": "stage3",
    "fcn8s": "pool4",
    "unet": "bottom",
}


@pytest.mark.parametrize(
    "name",
    [name if name in PATHS else pytest.param(name, marks=pytest.mark.slow) for name in models.list_models()],
)
def test_torchvisions_feature_extractor_takes_it(name: str) -> None:
    peers.import_or_skip("torchvision")
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    model, images = small_model(name)
    calibrate_batch_norm(model, images)
    path = PATHS.get(name, model.classifier)
    extractor = extraction.create_feature_extractor(model, [path])
    with torch.inference_mode():
        (features,) = extractor(images).values()
        assert torch.equal(features, models.features(model, images, [path])[path])


class Heads(nn.Module):
    """All outputs of a network with auxiliary heads, as an objective takes them."""

    def __init__(self, model: models.Network):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.training_outputs(images)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_naive", "inception_v2", "inception_v3"])
def test_torch_fx_traces_the_auxiliary_heads(name: str) -> None:
    model, images = small_model(name)
    calibrate_batch_norm(model, images)
    with torch.inference_mode():
        expected = Heads(model)(images)
        outputs = torch.fx.symbolic_trace(Heads(model))(images)
    assert outputs.keys() == expected.keys()
    assert all(torch.equal(outputs[head], expected[head]) for head in expected)


def compiled(model: nn.Module, images: Tensor) -> None:
    torch.compile(model, backend="eager")(images)


def exported(model: nn.Module, images: Tensor) -> None:
    torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("n")},))


def on_meta(model: nn.Module, images: Tensor) -> None:
    model.to("meta")(images.to("meta"))


def traced(model: nn.Module, images: Tensor) -> None:
    torch.fx.symbolic_trace(model)(images)


@pytest.mark.parametrize("run", [compiled, exported, on_meta, traced])
@pytest.mark.parametrize(
    ("name", "edition", "side", "message"),
    [
        ("lenet5", "paper", 20, "lenet5 was built for images of 32x32, not 20x20"),
        ("inception_v3", "paper", 40, "inception_v3 needs images of at least 75x75, so that Mixed_7a has"),
        ("unet", "paper", 190, "unet takes images whose sides are 188, 204, 220 and so on"),
        ("bn_inception", "pytorchcv", 48, "takes sides whose grids at 3c and 4e are even"),
    ],
)
def test_wrong_sizes_are_refused_however_it_runs(
    name: str, edition: str, side: int, message: str, run: Callable[[nn.Module, Tensor], None]
) -> None:
    model = models.create_model(name, edition=edition, width=0.1).eval()
    with pytest.raises(UsageError, match=message):
        run(model, torch.zeros(2, model.in_chans, side, side))
    torch._dynamo.reset()
