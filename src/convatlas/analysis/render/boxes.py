"""A trace as a graph of boxes, as a paper would draw it: a convolution with its normalisation and activation
is one box, a module without submodules is one box, and operators that only rearrange elements are none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from convatlas.analysis.rows import format_size
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import ConvSpec, Operation, Shape
from convatlas.analysis.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class Box:
    """`index` is that of its first operation, and of an input -1, -2, ..."""

    index: int
    path: str  # of the module that it belongs to, or of the parent of a convolution, its norm and activation
    kind: str  # input, convolution, linear, pooling, norm, activation, join or other
    operation: str  # 3x3 conv
    details: tuple[str, ...]  # 64 channels; norm and activation
    shape: Shape  # of its output, without the batch
    size: int | None = None  # channels or units that its weights make


Edge = tuple[int, int]
"""Indices, from a box to one that reads its output"""


class BoxGraph(NamedTuple):
    boxes: dict[int, Box]  # by index, in the order in which they run
    edges: tuple[Edge, ...]
    outputs: tuple[int, ...]


class _Group(NamedTuple):
    """The operations of one box: those of one call of a module without submodules, or a single one."""

    call: ModuleCall
    operations: list[Operation]


# Operators whose result has the same elements in the same order, or is no activation
_VIEWS = (
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "expand",
    "unsqueeze",
    "squeeze",
    "alias",
    "detach",
)
_REORDERING = frozenset({"t", "transpose", "permute", "clone"})
_INVISIBLE = _REORDERING | {*_VIEWS, "lift_fresh", "_to_copy", "empty"}
_ACTIVATIONS = {
    "relu": "ReLU",
    "hardtanh": "ReLU6",
    "hardswish": "h-swish",
    "hardsigmoid": "h-sigmoid",
    "silu": "SiLU",
    "gelu": "GELU",
    "elu": "ELU",
    "leaky_relu": "leaky ReLU",
    "_prelu_kernel": "PReLU",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "_softmax": "softmax",
    "_log_softmax": "log softmax",
}
_NORMS = {
    "native_batch_norm": "BN",
    "_native_batch_norm_legit": "BN",
    "_native_batch_norm_legit_no_training": "BN",
    "cudnn_batch_norm": "BN",
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
}
_JOINS = {"add": "+", "sub": "-", "mul": "×", "cat": "concat", "stack": "stack"}
_OTHER = {
    "mean": "global avg pool",
    "sum": "sum",
    "split": "split",
    "split_with_sizes": "split",
    "slice": "crop",
    "constant_pad_nd": "pad",
    "pixel_shuffle": "pixel shuffle",
    "channel_shuffle": "channel shuffle",
}


def box_graph(trace: Trace) -> BoxGraph:
    """The boxes of a forward pass that its output depends on, and the edges between them."""
    groups = _groups(trace)
    group_of = {operation.index: index for index, group in groups.items() for operation in group.operations}
    sources = {index: _sources(group, group_of) for index, group in groups.items()}
    boxes = {
        -1 - number: Box(-1 - number, "", "input", "input", (), shape[1:])
        for number, shape in enumerate(trace.input_shapes)
    }
    stands_for: dict[int, tuple[int, ...]] = {index: (index,) for index in boxes}
    for index, group in groups.items():  # what is invisible stands for what it reads
        inputs = tuple(dict.fromkeys(box for source in sources[index] for box in stands_for[source]))
        if not inputs:  # a constant
            stands_for[index] = ()
        elif _is_invisible(group):
            stands_for[index] = inputs
        else:
            stands_for[index] = (index,)
            sources[index] = inputs
            boxes[index] = _box(index, group, inputs)
    outputs = [group_of.get(output, output) for output in trace.outputs]
    outputs = list(dict.fromkeys(box for output in outputs for box in stands_for.get(output, ())))
    edges = [(source, index) for index in boxes if index >= 0 for source in sources[index]]
    return _fuse(_reaching(BoxGraph(boxes, tuple(edges), tuple(outputs))))


def _groups(trace: Trace) -> dict[int, _Group]:
    """By index of the first operation, in the order in which they run."""
    groups: dict[tuple[str, int, int], _Group] = {}
    for call in trace.calls:
        for operation in call.operations:
            is_single = not call.is_leaf or not call.path
            key = (call.path, operation.module_call, operation.index if is_single else -1)
            groups.setdefault(key, _Group(call, [])).operations.append(operation)
    by_index = {group.operations[0].index: group for group in groups.values()}
    return dict(sorted(by_index.items()))


def _sources(group: _Group, group_of: Mapping[int, int]) -> tuple[int, ...]:
    """The groups and inputs that a group reads."""
    own = {operation.index for operation in group.operations}
    sources = [source for operation in group.operations for source in operation.sources if source not in own]
    return tuple(dict.fromkeys(group_of.get(source, source) for source in sources))


def _is_invisible(group: _Group) -> bool:
    names = {operation.name for operation in group.operations}
    if len(group.operations) > 1 and len(names & _REORDERING) > 0 and group.call.class_name != "Flatten":
        return False  # a module that reorders, such as a channel shuffle
    return names <= _INVISIBLE


def _box(index: int, group: _Group, inputs: tuple[int, ...]) -> Box:
    operations = [operation for operation in group.operations if operation.name not in _INVISIBLE]
    shape = group.operations[-1].output_shape[1:]
    path = group.call.path

    def box(kind: str, text: str, *details: str, size: int | None = None) -> Box:
        return Box(index, path, kind, text, details, shape, size)

    convolutions = [operation.conv for operation in operations if operation.conv is not None]
    if len(convolutions) == 1:
        conv = convolutions[0]
        return box("convolution", _conv_text(conv), *_groups_text(conv), size=conv.out_channels)
    if len(operations) == 1:
        (operation,) = operations
        name = operation.name.strip("_") if operation.name.endswith("_") else operation.name
        if name in ("addmm", "mm", "linear", "bmm"):
            return box("linear", "linear", size=operation.output_shape[-1])
        if "pool" in name:
            return box("pooling", _pool_text(operation))
        if name in _ACTIVATIONS:
            return box("activation", _ACTIVATIONS[name])
        if name in _NORMS:
            return box("norm", _NORMS[name])
        if name in _JOINS and (len(inputs) > 1 or name in ("cat", "stack")):
            return box("join", _JOINS[name])
        if name == "mean" and len(shape) > 1 and max(shape[1:]) > 1:
            return box("other", "mean")
        if name.startswith("upsample"):
            return box("pooling", name.removeprefix("upsample_").removesuffix("2d") + " upsampling")
        if name in _OTHER:
            return box("pooling" if name == "mean" else "other", _OTHER[name])
        if not group.call.is_leaf or not path:
            return box("other", name)
    names = {operation.name.strip("_") for operation in operations}
    if names & _ACTIVATIONS.keys() and names <= {*_ACTIVATIONS, "mul", "add", "div"} and len(inputs) == 1:
        return box("activation", group.call.class_name)
    pools = [o for o in operations if o.pool_window is not None and "pool2d" in o.name]
    if len(pools) == 1:
        return box("pooling", group.call.class_name, _pool_text(pools[0]))
    return box("other", group.call.class_name)


def _conv_text(conv: ConvSpec) -> str:
    kernel = _sides(conv.kernel_size)
    name = "transposed conv" if conv.is_transposed else "conv"
    if conv.groups > 1 and conv.groups == conv.in_channels:
        name = f"depthwise {name}"
    text = f"{kernel} {name}" if conv.kernel_size else name
    if max(conv.stride, default=1) > 1:
        text += f", {'×' if conv.is_transposed else '/'}{format_size(conv.stride)}"
    if max(conv.dilation, default=1) > 1:
        text += f", dilation {format_size(conv.dilation)}"
    return text


def _groups_text(conv: ConvSpec) -> tuple[str, ...]:
    return (f"{conv.groups} groups",) if 1 < conv.groups != conv.in_channels else ()


def _pool_text(operation: Operation) -> str:
    name = "max pool" if "max" in operation.name else "avg pool"
    if operation.pool_window is None:
        return f"{name} to {_sides(operation.output_shape[2:])}"
    kernel, stride = operation.pool_window
    text = f"{_sides(kernel)} {name}"
    return text + (f", /{format_size(stride)}" if max(stride) > 1 else "")


def _sides(sides: Iterable[int]) -> str:
    sides = list(sides)
    return "×".join(map(str, sides * 2 if len(sides) == 1 else sides))


def common_path(paths: Iterable[str]) -> str:
    """The innermost module that holds all of them."""
    common: list[str] = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def _reaching(graph: BoxGraph) -> BoxGraph:
    """Without what the output does not depend on."""
    sources: dict[int, list[int]] = {}
    for source, target in graph.edges:
        sources.setdefault(target, []).append(source)
    needed = set(graph.outputs)
    stack = list(graph.outputs)
    while stack:
        for source in sources.get(stack.pop(), ()):
            if source not in needed:
                needed.add(source)
                stack.append(source)
    boxes = {index: box for index, box in graph.boxes.items() if index in needed}
    edges = tuple(edge for edge in graph.edges if edge[1] in needed)
    return BoxGraph(boxes, edges, graph.outputs)


def _fuse(graph: BoxGraph) -> BoxGraph:
    """Norms and activations join the box that they alone read; beyond a sum or a concatenation, if they are
    of the same module."""
    readers: dict[int, list[int]] = {}
    sources: dict[int, list[int]] = {}
    for source, target in graph.edges:
        readers.setdefault(source, []).append(target)
        sources.setdefault(target, []).append(source)
    boxes: dict[int, Box] = {}
    home: dict[int, int] = {}  # of every box, the box that it is drawn in
    for index, box in graph.boxes.items():
        home[index] = index
        if len(sources.get(index, ())) == 1:
            (source,) = sources[index]
            host = boxes[home[source]]
            if len(readers[source]) == 1 and _hosts(host, box, graph.boxes[source]):
                home[index] = host.index
                boxes[host.index] = _fused(host, box)
                continue
        boxes[index] = box
    edges = dict.fromkeys((home[source], home[target]) for source, target in graph.edges)
    outputs = tuple(dict.fromkeys(home[index] for index in graph.outputs))
    return BoxGraph(boxes, tuple(edge for edge in edges if edge[0] != edge[1]), outputs)


def _hosts(host: Box, box: Box, source: Box) -> bool:
    if host.operation == box.operation == "crop":
        return True
    if box.kind not in ("norm", "activation"):
        return False
    if host.kind in ("convolution", "linear", "norm"):
        return True
    return host.kind == "join" and _parent(box, source) == source.path


def _parent(box: Box, source: Box) -> str:
    """The module of a functional activation, or the parent of an activation module."""
    return box.path if box.path == source.path else box.path.rpartition(".")[0]


def _fused(host: Box, box: Box) -> Box:
    path = host.path
    if box.operation == "crop":  # of another axis
        return replace(host, shape=box.shape)
    if host.kind in ("convolution", "linear", "norm"):
        path = common_path([host.path, box.path]) or host.path
    return replace(host, path=path, details=(*host.details, box.operation), shape=box.shape)
