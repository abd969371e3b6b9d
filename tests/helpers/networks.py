"""Every network of the atlas, small enough for a test, and weights for tests."""

from typing import Any

import torch
from torch import Tensor, nn

from convatlas import models

HUGE = ("resnet1202_cifar", "resnetv2_1001_cifar")  # take minutes; shallower ones take seconds
DEEP: tuple[str, ...] = ("resnet101", "resnet152", "resnetv2_101", "resnetv2_152", "resnetv2_200")
DEEP += ("se_resnet101", "se_resnet152", "senet154")
DEEP += ("resnet110_cifar", "plain110_cifar", "resnetv2_110_cifar", "resnetv2_164_cifar")

# For networks whose deeper grids would be a single pixel with the usual image
_SIDES = {"alexnet": 67, "unet": 188, "inception_v2": 107, "inception_v3": 107}


def small_model(name: str, width: float = 0.25, **arguments: Any) -> tuple[models.Network, Tensor]:
    """The network at a quarter of its width, and three small images for it."""
    entry = models.get_entry(name)
    side = _SIDES.get(name, 32 if entry.input[1] == 32 else 64)
    if "reduction" in entry.default_arguments():
        arguments = {
            "reduction": 4
        } | arguments  # a quarter of 16: with 16 a single unit remains, and may be dead
    model = models.create_model(name, width=width, **{"image_size": side} | arguments)
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(3, model.in_chans, *(model.fixed_size or (side, side)), generator=generator)


def calibrate_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Set batch norm's running statistics to those of these images, and switch to evaluation.

    With the initial statistics the sums of a thousand layers overflow in evaluation.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()


def randomize_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep activations near 1, and batch-norm statistics that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.dim() > 1:
                    parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
                elif name == "weight":
                    parameter.uniform_(0.5, 1.0, generator=generator)
                else:
                    parameter.normal_(std=0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def randomize_to_unit_signal(model: nn.Module, images: Tensor) -> nn.Module:
    """As `randomize_weights`, in evaluation, with every layer's signal of these images near 1.

    With the statistics of a batch, rounding errors would grow from layer to layer, and the output of a
    hundred layers would be noise.
    """

    def scale(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        power = inputs[0].square().mean()
        for statistic, factor in ((norm.running_mean, power.sqrt()), (norm.running_var, power)):
            assert isinstance(statistic, Tensor)
            statistic.mul_(factor)

    norms = [module for module in randomize_weights(model).modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(scale) for norm in norms]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model
