"""One forward on meta tensors, watched: which operators ran where, what each cost, and what every module's output sees.

Nothing is computed and no weight is allocated: the module is copied with its tensors on the meta device, run once, and each ATen
operator noted on its way. So whatever a module does in its forward is seen, and the caller's module is left as it was.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from convatlas.analysis import operators
from convatlas.analysis import sight as sights
from convatlas.analysis.sight import Sight
from convatlas.errors import UsageError, UserError, printable

Shape = tuple[int, ...]
CONVOLUTIONS = frozenset({"convolution", "_convolution", "cudnn_convolution"})


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution's, and the embedding that it works on."""

    sides: Shape
    channels_in: int
    channels_out: int
    groups: int
    reduced_from: int | None  # channels before the 1x1 convolution whose result it reads; None where there is none


@dataclass(slots=True)
class Operation:
    """One ATen operator. Bytes are those of the tensors that it reads and writes; a view moves none."""

    order: int  # among all of the forward
    name: str
    macs: int
    read: int
    written: int
    activation: int  # bytes of its result where that is a new tensor; indices and statistics beside it are left out
    depth: int  # convolutions and linear layers on the longest path up to its result
    grid: bool  # its result is a map, with more than one place along every axis of the image
    understood: bool
    kernel: Kernel | None = None
    cut: int = 0  # bytes of activations, the input left out, that are read after it


@dataclass(slots=True)
class Call:
    """A module, called once or more; of several calls the last one's shapes."""

    path: str
    kind: str  # the module's class
    params: int  # its own, those already counted elsewhere left out
    leaf: bool
    times: int = 0
    operations: list[Operation] = field(default_factory=list)
    inputs: list[Shape] = field(default_factory=list)
    outputs: list[Shape] = field(default_factory=list)
    sight: Sight | None = None
    places: tuple[int | None, ...] = ()


@dataclass(slots=True)
class Trace:
    name: str
    input: tuple[Shape, ...]  # of each tensor given
    input_bytes: int
    calls: list[Call]  # in the order in which they began
    params: int
    trainable: int
    buffers: int
    idle: list[tuple[str, int]]  # modules with parameters that did not run, with those
    peak: int  # most bytes of activations alive at one time
    peak_at: str  # the module in which
    kept: Callable[[], dict[str, int] | None]  # a forward in training mode: what `kept_for_backward` finds


def trace(module: nn.Module, example: Any, axes: int | None = None, device: str = "meta") -> Trace:
    """Run `module` once, in evaluation mode, on the meta device, and note what happens.

    `example`: the shape of one image (channels, height, width), or the forward's inputs: a tensor, a tuple of them in order, a
    dictionary by name. `axes`: how many last dimensions of the first tensor are its image's; by default all but batch and channels.
    Raises UsageError for an input that the module cannot take, naming the layer and the shape there; UserError for a module whose
    course depends on values, which meta tensors have not.
    """
    name = type(module).__name__
    twin = on_device(module, device).eval()
    args, kwargs = inputs(twin, example, device)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    modules = Modules(twin)
    watch = Watch(twin, modules)
    for number, tensor in enumerate(tensors):
        n = max(tensor.dim() - 2, 0) if axes is None else axes
        watch.begin(tensor, sights.image(tensor.shape, n) if number == 0 else None)
    with modules.followed(watch.seen.get), torch.no_grad(), torch.device(device), Shapes(), watch:
        run(twin, args, kwargs, name, tensors, modules)
    watch.note_cuts()
    ran = {call.path for call in modules.calls}
    idle = [(path, n) for path, m in twin.named_modules() if path not in ran and (n := sum(p.numel() for p in m.parameters(recurse=False)))]
    return Trace(
        name,
        tuple(tuple(t.shape) for t in tensors),
        sum(t.numel() * t.element_size() for t in tensors),
        modules.calls,
        sum(p.numel() for p in twin.parameters()),
        sum(p.numel() for p in twin.parameters() if p.requires_grad),
        sum(b.numel() for b in twin.buffers()),
        idle,
        watch.peak,
        watch.peak_at,
        partial(kept_for_backward, twin, args, kwargs, device),
    )


def on_device(module: nn.Module, device: str) -> Any:
    """A copy of the module whose tensors are on `device`; on meta they take no memory."""
    memo: dict[int, Any] = {}

    def place(tensor: Tensor) -> Tensor:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise UserError(f"{type(module).__name__} has parameters without a shape yet: run it once, then analyse it")
        there = torch.empty_like(tensor, device=device) if device == "meta" else tensor.detach().clone().to(device)
        return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there

    for part in module.modules():
        for value in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = place(value)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        name = type(module).__name__
        raise UserError(f"{name} cannot be copied ({printable(error)}): the analysis works on a copy of the module") from None


def inputs(module: nn.Module, example: Any, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one forward, on `device`."""
    if isinstance(example, Sequence) and not isinstance(example, str) and example and all(isinstance(n, int) for n in example):
        if min(example) < 1:
            raise UsageError(f"the input {tuple(example)} has an empty side: expected (channels, height, width) of one image")
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
        return (torch.empty(1, *example, dtype=dtype, device=device),), {}

    def place(value: Any) -> Any:
        return value.detach().to(device) if isinstance(value, Tensor) else value

    if isinstance(example, Tensor):
        return (place(example),), {}
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        return (), {key: tree_map(place, value) for key, value in example.items()}
    if isinstance(example, tuple | list) and any(isinstance(t, Tensor) for t in tree_leaves(example)):
        return tuple(tree_map(place, value) for value in example), {}
    raise UsageError(
        f"cannot make an input of {printable(repr(example))[:80]}: expected (channels, height, width), a tensor, a tuple of the forward's "
        "arguments, or a dictionary of them by name"
    )


def run(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], name: str, tensors: list[Tensor], modules: "Modules") -> None:
    """Call the module; what it raises becomes one sentence that names the layer."""
    try:
        module(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        given = " and ".join(f"a tensor of {'x'.join(map(str, t.shape)) or 'one number'}" for t in tensors) or "no tensors"
        place = modules.open[-1] if modules.open else None
        at = f"{place.path} ({place.kind})" if place is not None and place.path else f"{name} itself"
        shapes = ", ".join(map(str, place.inputs)) if place is not None else given
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:200]
        if (place is None or not place.path) and isinstance(error, TypeError) and "forward()" in str(error):
            raise UsageError(
                f"{name} cannot be called with {given} alone ({reason}): give example inputs, a tuple of the forward's arguments or a "
                "dictionary of them by name"
            ) from None
        if "meta" in str(error).lower() or isinstance(error, NotImplementedError) or "data-dependent" in str(error):
            raise UserError(
                f"{at} needs the values of its tensors, which an analysis of shapes has not ({reason}): give real tensors and device='cpu'"
            ) from None
        raise UsageError(f"{name} fails on {given}: {at} got {shapes} ({reason}); give it an input of another size") from None


class Modules:
    """Which module is at work, and what went in and out of each."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.open: list[Call] = []
        self.calls: list[Call] = []  # of the modules that ran
        self._by_path: dict[str, Call] = {}
        counted: set[int] = set()
        for path, part in module.named_modules():
            own = [p for p in part._parameters.values() if p is not None and id(p) not in counted]
            counted |= {id(p) for p in own}
            self._by_path[path] = Call(path, type(part).__name__, sum(p.numel() for p in own), not part._modules)

    @contextmanager
    def followed(self, sight: Callable[[Tensor], Sight | None] = lambda _: None) -> Iterator[None]:
        handles = []
        for path, part in self.module.named_modules():
            call = self._by_path[path]

            def enter(_: nn.Module, args: Any, kwargs: Any, call: Call = call) -> None:
                if not call.times:
                    self.calls.append(call)
                call.times += 1
                call.inputs = _shapes((args, kwargs))
                self.open.append(call)

            def leave(_: nn.Module, args: Any, out: Any, call: Call = call) -> None:
                self.open.pop()
                call.outputs = _shapes(out)
                first = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
                call.sight = None if first is None else sight(first)

            handles.append(part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            handles.append(part.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Storages:
    """The activations' memory: what is alive, and between which operations each is still needed."""

    def __init__(self, owned: Iterable[Tensor]):
        self._owned = {t.untyped_storage()._cdata for t in owned}  # the module's own tensors are no activations
        self._holders: dict[int, int] = {}  # by address: how many tensors hold it
        self._number: dict[int, int] = {}  # by address, which is used again after a release: a number that is not
        self.size: list[int] = []
        self.born: list[int] = []
        self.last_read: list[int] = []
        self.live = 0

    def hold(self, tensor: Tensor, now: int) -> bool:
        """Count the tensor's memory as alive while any tensor holds it; whether it is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._owned:
            return False
        fresh = key not in self._number
        if fresh:
            self._number[key], self._holders[key] = len(self.size), 0
            self.size.append(size)
            self.born.append(now)
            self.last_read.append(now)
            self.live += size
        self._holders[key] += 1
        weakref.finalize(tensor, self._release, key, size).atexit = False
        return fresh

    def read(self, tensor: Tensor, now: int) -> None:
        number = self._number.get(tensor.untyped_storage()._cdata)
        if number is not None:
            self.last_read[number] = now

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key], self._number[key]
            self.live -= size


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Batch norm of meta tensors in evaluation mode: a result like its input, which torch derives in Python, in half of a trace's time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm.default and args[0].is_meta and not args[5]:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        return func(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every ATen operator with the module that called it, and follows what each tensor's units see."""

    def __init__(self, module: nn.Module, modules: Modules):
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.seen: MutableMapping[Tensor, Sight] = WeakTensorKeyDictionary()
        self.depth: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        # results of 1x1 convolutions, and what keeps their channels: channels before
        self.reduced: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self.storages = Storages((*module.parameters(), *module.buffers()))
        self.operations: list[Operation] = []
        self.inputs = 0
        self.peak = 0
        self.peak_at = ""

    def begin(self, tensor: Tensor, sight: Sight | None) -> None:
        self.storages.hold(tensor, -1)
        self.inputs = len(self.storages.size)
        if sight is not None:
            self.seen[tensor] = sight

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.modules.open:
            return out
        now, mutable = len(self.operations), func._schema.is_mutable
        call = operators.Call(func, args, kwargs, out, self.seen.get)
        given = call.tensors()
        results = [out] if isinstance(out, Tensor) else [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        sight, understood = operators.sight_of(call)
        each = sight if isinstance(sight, list) else [sight] * len(results)
        for tensor, what in zip(results, each, strict=False):
            if what is not None:
                self.seen[tensor] = what
                if mutable:
                    self._also_the_whole(tensor, what)
        for tensor in given:
            self.storages.read(tensor, now)
        fresh = [tensor for tensor in results if self.storages.hold(tensor, now)]
        if self.storages.live > self.peak:
            self.peak, self.peak_at = self.storages.live, self.modules.open[-1].path

        formula = flop_registry.get(func.overloadpacket)
        depth = max((self.depth.get(t, 0) for t in given), default=0) + bool(formula)
        for tensor in results:
            self.depth[tensor] = max(depth, self.depth.get(tensor, 0))
        moves = bool(fresh) or mutable
        operation = Operation(
            order=now,
            name=func._schema.name.removeprefix("aten::"),
            macs=formula(*args, **kwargs, out_val=out) // 2 if formula else 0,
            read=sum(map(_bytes, given)) if moves else 0,
            written=sum(map(_bytes, results)) if moves else 0,
            activation=_bytes(results[0]) if fresh and fresh[0] is results[0] else 0,
            depth=depth,
            grid=bool(each and each[0]) and all(axis.dim is not None and axis.units > 1 for axis in each[0] or ()),
            understood=understood,
            kernel=self._kernel(call, results) if results else None,
        )
        self.operations.append(operation)
        self.modules.open[-1].operations.append(operation)
        return out

    def note_cuts(self) -> None:
        """After each operation, the bytes that some later one reads: what information can pass through there."""
        change = [0] * (len(self.operations) + 1)
        storages = self.storages
        for number in range(self.inputs, len(storages.size)):
            change[storages.born[number]] += storages.size[number]
            change[storages.last_read[number]] -= storages.size[number]
        total = 0
        for operation, by in zip(self.operations, change, strict=False):
            total += by
            operation.cut = total

    def _kernel(self, call: operators.Call, results: list[Tensor]) -> Kernel | None:
        """A convolution's kernel; and remember 1x1 convolutions that reduce, up to the next one."""
        source = next(iter(call.tensors()), None)
        if source is None:
            return None
        before = self.reduced.get(source)
        if not call.operator._schema.name.endswith("::convolution"):
            if before is not None and results[0].dim() == source.dim() and results[0].shape[1:2] == source.shape[1:2]:
                self.reduced[results[0]] = before
            return None
        sides = tuple(call["weight"].shape[2:])
        kernel = Kernel(sides, source.shape[1], results[0].shape[1], call["groups"], before)
        if max(sides) == 1 and kernel.channels_in > kernel.channels_out:
            self.reduced[results[0]] = kernel.channels_in
        elif before is not None and (max(sides) > 1 or kernel.channels_in == kernel.channels_out):
            self.reduced[results[0]] = before  # a second convolution on the same embedding
        return kernel

    def _also_the_whole(self, part: Tensor, sight: Sight) -> None:
        """What is written into a part of a tensor is seen through the whole of it."""
        whole = part._base
        if whole is None or whole is part:
            return
        if whole.dim() == part.dim():
            spread = tuple(
                sights.Axis(axis.mixed().field, axis.dim, whole.shape[axis.dim])
                if axis.dim is not None and whole.shape[axis.dim] != part.shape[axis.dim]
                else axis
                for axis in sight
            )
        else:
            spread = sights.gathered(sight, range(part.dim()))
        before = self.seen.get(whole)
        self.seen[whole] = spread if before is None else sights.joined([(before, whole.shape), (spread, whole.shape)], whole.shape)


def kept_for_backward(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], device: str) -> dict[str, int] | None:
    """Bytes that autograd keeps of one forward in training mode, the module's own tensors left out; by the module that made it keep them.

    Batch norm stays in evaluation mode, where one image is enough for it; it keeps the same, but for two numbers a channel. None where the
    module does not run in training mode on these inputs, as detectors that want targets.
    """
    owned = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    modules, kept, seen, held = Modules(module), dict[str, int](), set[int](), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in seen:
            seen.add(storage._cdata)
            held.append(tensor)  # so that its address is not used again
            path = modules.open[-1].path if modules.open else ""
            kept[path] = kept.get(path, 0) + storage.nbytes()
        return tensor

    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    try:
        with modules.followed(), torch.enable_grad(), torch.device(device), Shapes(), saved_tensors_hooks(keep, lambda tensor: tensor):
            module(*args, **kwargs)
    except Exception:
        return None
    finally:
        module.eval()
    return kept


def _shapes(value: Any) -> list[Shape]:
    return [tuple(t.shape) for t in tree_leaves(value) if isinstance(t, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
