"""The feature maps of a module within the autograd graph, and the last convolutional layer of a network."""

from typing import NamedTuple

from torch import Tensor, nn

from convatlas.analysis import Report, analyze
from convatlas.analysis.trace.main_output import main_output
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import CONVOLUTIONS
from convatlas.errors import UsageError, UserError, unknown_name
from convatlas.models.network import eval_mode

MIN_MAP_SIDE = 7  # as in the last layer of ResNet; smaller maps show no place in an image


class FeatureMaps(NamedTuple):
    """The output of a module in one forward pass, as it was before later in-place operations, and the logits,
    which depend on it in the autograd graph."""

    maps: Tensor  # (n, maps, h, w)
    logits: Tensor


def forward_with_maps(model: nn.Module, images: Tensor, path: str) -> FeatureMaps:
    """Run the network in evaluation mode on images (n, c, h, w), normalised, and return the feature maps of
    the module at `path`. If the module runs more than once, they are those of its last run. Of a network that
    returns several values, the entry `logits` or `out` are the logits, else the first tensor.

    Raises UsageError for what is no module or no such images, for a path that does not exist, naming the
    nearest, or whose output is no feature maps; UserError for a module that did not run.
    """
    check_images(model, images)
    modules = dict(model.named_modules())
    if not path or path not in modules:
        raise unknown_name("module", path, filter(None, modules))
    outputs: list[Tensor] = []

    def record_output(module: nn.Module, inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            kind = f"a {type(output).__name__}"
            if isinstance(output, Tensor):
                kind = f"a tensor of shape {tuple(output.shape)}"
            raise UsageError(
                f"{path} gives {kind}, no maps: choose a layer whose output is (n, maps, height, width)"
            )
        outputs[:] = [output]
        return output.clone()

    handle = modules[path].register_forward_hook(record_output)
    try:
        with eval_mode(model):
            main = main_output(model(images))
    finally:
        handle.remove()
    if not outputs:
        raise UserError(f"{path} does not run in evaluation: choose a layer on the way to the logits")
    if main is None:
        raise UsageError(f"{type(model).__name__} returns no tensor: expected logits")
    return FeatureMaps(outputs[0], main.tensor)


def check_images(model: object, images: object) -> None:
    """Raise UsageError for what is no module, or for images that are not (n, c, h, w), normalised."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"expected an nn.Module, not a {type(model).__name__}: of a classifier give classifier.model"
        )
    if not isinstance(images, Tensor):
        given = f"a {type(images).__name__}"
    elif images.dim() != 4 or not images.is_floating_point():
        given = f"{images.dtype} of shape {tuple(images.shape)}"
    else:
        return
    raise UsageError(
        f"expected normalised images, a float tensor (n, channels, height, width), not {given}: a classifier "
        "gives them by classifier.normalizer(pixels), of uint8 pixels"
    )


def last_conv_layer(model: nn.Module, shape: tuple[int, int, int], min_side: int = MIN_MAP_SIDE) -> str:
    """The path of the module with the last convolutional features for images of `shape` (channels, h, w) in
    maps of at least `min_side` units a side; without any, the last of those with the largest maps.

    These are the features of the last such convolution, after the normalisation, sum and activation that
    follow at the same size. Of several modules with this output it is the outermost.

    Raises UserError for a network without such a convolution.
    """
    calls = analyze(model, shape).trace.calls
    convolutions = [
        (operation.index, call)
        for call in calls
        for operation in call.operations
        if operation.is_feature_map and operation.name in CONVOLUTIONS
    ]
    if not convolutions:
        raise UserError(
            f"{type(model).__name__} has no convolution whose output is a feature map for images of "
            f"{shape[1]}x{shape[2]}: no maps to show"
        )
    sides = [min(call.output_shapes[0][2:]) for _, call in convolutions]
    min_side = min(min_side, max(sides))
    large = [pair for pair, side in zip(convolutions, sides, strict=True) if side >= min_side]
    _, last_call = max(large, key=lambda pair: pair[0])
    size = last_call.output_shapes[0][2:]
    last_index_by_path = {
        call.path: _last_operation_index(call, calls)
        for call in calls
        if call.path and call.output_shapes and call.output_shapes[0][2:] == size
    }
    return max(last_index_by_path, key=lambda path: (last_index_by_path[path], -len(path)))


def _last_operation_index(call: ModuleCall, calls: list[ModuleCall]) -> int:
    """The index of the last operation of a module and its submodules."""
    subtree = (c for c in calls if c.path == call.path or c.path.startswith(f"{call.path}."))
    return max((operation.index for c in subtree for operation in c.operations), default=-1)


def field_slices(
    report: Report, path: str, unit: tuple[int, int], size: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of the patch of an image of `size` (height, width) that holds the receptive field of a
    unit (row, column) of the module at `path`."""
    rows, columns = report.pixels(path, unit)
    return _shift_inside(rows, size[0]), _shift_inside(columns, size[1])


def _shift_inside(pixels: tuple[int, int] | None, side: int) -> slice:
    """The pixels from first to last of a receptive field, shifted to lie inside an image of `side` pixels;
    the whole side if the field is larger or unknown."""
    if pixels is None:
        return slice(0, side)
    first, last = pixels
    size = min(last - first + 1, side)
    start = min(max(first, 0), side - size)
    return slice(start, start + size)
