"""Intermediate outputs of a network, without editing it."""

from collections.abc import Sequence

from torch import Tensor, nn

from convatlas.errors import unknown_name
from convatlas.models.network import Network

PENULTIMATE = "penultimate"


def features(model: Network, images: Tensor, paths: Sequence[str] = (PENULTIMATE,)) -> dict[str, Tensor]:
    """The outputs of the modules at `paths` (as in `model.named_modules()`), in one forward.

    The path "penultimate" stands for the input of the classifying layer. Maps are (n, c, h, w), the
    penultimate vector of a classifier (n, c). They are copies: an in-place activation changes nothing in
    them. A module that runs more than once gives its last output. Raises UsageError for a path that does not
    exist; the message names the nearest.
    """
    modules = dict(model.named_modules())
    for path in paths:
        if path != PENULTIMATE and (path not in modules or not path):
            raise unknown_name("module", path, [*filter(None, modules), PENULTIMATE])
    outputs: dict[str, Tensor] = {}
    hooks = []
    for path in paths:
        if path == PENULTIMATE:

            def save_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                outputs[PENULTIMATE] = inputs[0].clone()

            hooks.append(modules[model.classifier].register_forward_pre_hook(save_input))
        else:

            def save_output(
                module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, path: str = path
            ) -> None:
                outputs[path] = output.clone()

            hooks.append(modules[path].register_forward_hook(save_output))
    try:
        if set(model.heads) & {path.split(".")[0] for path in paths}:
            model.training_outputs(images)
        else:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: outputs[path] for path in paths}
