"""Intermediate outputs of any module, without editing it."""

from collections.abc import Sequence

from torch import Tensor, nn

from convatlas.analysis.trace.main_output import main_output
from convatlas.errors import UsageError, UserError, unknown_name
from convatlas.models.network import Network

PENULTIMATE = "penultimate"


def features(model: nn.Module, images: Tensor, paths: Sequence[str] = (PENULTIMATE,)) -> dict[str, Tensor]:
    """The outputs of the modules at `paths` (as in `model.named_modules()`), in one forward.

    In a network of the atlas the path "penultimate" stands for the input of the classifying layer. Maps are
    (n, c, h, w), the penultimate vector of a classifier (n, c). They are copies: an in-place activation
    changes nothing in them. A module that runs more than once gives its last output; of several values, the
    entry `logits` or `out`, else the first tensor.

    Raises UsageError for a path that does not exist, naming the nearest, and for a module without a tensor in
    its output; UserError for a module that does not run.
    """
    if isinstance(paths, str):
        paths = (paths,)
    modules = dict(model.named_modules())
    known = [*filter(None, modules), *([PENULTIMATE] if isinstance(model, Network) else [])]
    for path in paths:
        if path not in known:
            raise unknown_name("module", path, known)
    outputs: dict[str, Tensor] = {}
    hooks = []
    for path in paths:
        if path == PENULTIMATE and isinstance(model, Network):

            def save_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                outputs[PENULTIMATE] = inputs[0].clone()

            hooks.append(modules[model.classifier].register_forward_pre_hook(save_input))
        else:

            def save_output(module: nn.Module, inputs: object, output: object, path: str = path) -> None:
                main = main_output(output)
                if main is None:
                    raise UsageError(f"{path} returns a {type(output).__name__} without tensors: no features")
                outputs[path] = main.tensor.clone()

            hooks.append(modules[path].register_forward_hook(save_output))
    try:
        if isinstance(model, Network) and set(model.heads) & {path.split(".")[0] for path in paths}:
            model.training_outputs(images)
        else:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    missing = next((path for path in paths if path not in outputs), None)
    if missing is not None:
        raise UserError(f"{missing} does not run: choose a module on the way to the output")
    return {path: outputs[path] for path in paths}
