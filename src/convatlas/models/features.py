"""What a network computes on the way to its logits, without editing it."""

from collections.abc import Sequence

from torch import Tensor, nn

from convatlas.errors import unknown_name
from convatlas.models.network import Network

PENULTIMATE = "penultimate"


def features(model: Network, images: Tensor, paths: Sequence[str] = (PENULTIMATE,)) -> dict[str, Tensor]:
    """The outputs of the modules at `paths` (as in `model.named_modules()`), in one forward; "penultimate" is what goes into the
    classifying layer.

    Maps are (n, c, h, w), the penultimate vector of a classifier (n, c). Copies: an activation in place changes nothing in them. A
    module that runs more than once gives its last output. Raises UsageError for a path that does not exist, naming the nearest.
    """
    modules = dict(model.named_modules())
    for path in paths:
        if path != PENULTIMATE and (path not in modules or not path):
            raise unknown_name("module", path, [*filter(None, modules), PENULTIMATE])
    found: dict[str, Tensor] = {}
    hooks = []
    for path in paths:
        if path == PENULTIMATE:

            def keep_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                found[PENULTIMATE] = inputs[0].clone()

            hooks.append(modules[model.classifier].register_forward_pre_hook(keep_input))
        else:

            def keep_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
                found[path] = output.clone()

            hooks.append(modules[path].register_forward_hook(keep_output))
    try:
        model.training_outputs(images) if set(model.heads) & {path.split(".")[0] for path in paths} else model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: found[path] for path in paths}
