"""One forward on meta tensors, watched: which operators ran where, what each cost, and what every module's output sees.

Nothing is computed and no weight is allocated: the module is copied with its tensors on the meta device, run once, and each ATen
operator noted on its way. So whatever a module does in its forward is seen, and the caller's module is left as it was.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convatlas.analysis import operators
from convatlas.analysis import sight as sights
from convatlas.analysis.shapes import Shapes, computed
from convatlas.analysis.sight import Sight
from convatlas.analysis.twin import on_device, uncollected
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
    cut: int = 0  # elements of activations, the input left out, that are read after it


@dataclass(slots=True)
class Call:
    """A module, called once or more; of several calls the last one's shapes."""

    path: str
    kind: str  # the module's class
    params: int  # its own, those already counted elsewhere left out
    leaf: bool
    times: int = 0
    operations: list[Operation] = field(default_factory=list)
    inputs: list[Shape] = field(default_factory=list)  # where it failed
    outputs: list[Shape] = field(default_factory=list)
    sight: Sight | None = None


@dataclass(slots=True)
class Trace:
    name: str
    inputs: tuple[Shape, ...]  # of each tensor given
    input_bytes: int
    calls: list[Call]  # in the order in which they began
    params: int
    trainable: int
    buffers: int
    idle: list[tuple[str, int]]  # modules with parameters that did not run, with those
    peak: int  # most bytes of activations alive at one time
    peak_at: str  # the module in which
    kept: Callable[[], dict[str, int] | None]  # a forward in training mode: what `kept_for_backward` finds


@uncollected()
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
    tensors = _tensors((args, kwargs))
    modules = Modules(twin)
    watch = Watch(modules)
    for number, tensor in enumerate(tensors):
        n = max(tensor.dim() - 2, 0) if axes is None else axes
        watch.begin(tensor, sights.image(tensor.shape, n) if number == 0 else None)
    with modules.followed(watch.tensors.sight), torch.no_grad(), torch.device(device), watch:
        run(twin, args, kwargs, modules, device)
    watch.note_cuts()
    return Trace(
        name,
        tuple(tuple(t.shape) for t in tensors),
        sum(t.numel() * t.element_size() for t in tensors),
        modules.calls,
        sum(p.numel() for p in modules.parameters),
        sum(p.numel() for p in modules.parameters if p.requires_grad),
        sum(b.numel() for b in modules.buffers),
        modules.idle,
        watch.peak,
        watch.peak_at,
        partial(kept_for_backward, twin, args, kwargs, device),
    )


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


def run(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], modules: "Modules", device: str) -> None:
    """Call the module; what it raises becomes one sentence that names the layer."""
    try:
        module(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        name, place = type(module).__name__, modules.failed
        shapes = _shapes((args, kwargs))
        given = " and ".join(f"a tensor of {'x'.join(map(str, shape)) or 'one number'}" for shape in shapes) or "no tensors"
        at = f"{place.path} ({place.kind})" if place is not None and place.path else f"{name} itself"
        got = ", ".join(map(str, place.inputs)) if place is not None else given
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:200]
        if (place is None or not place.path) and isinstance(error, TypeError) and "forward()" in str(error):
            raise UsageError(
                f"{name} cannot be called with {given} alone ({reason}): give example inputs, a tuple of the forward's arguments or a "
                "dictionary of them by name"
            ) from None
        words = str(error).lower()
        if device == "meta" and ("meta" in words or "data-dependent" in words or isinstance(error, NotImplementedError)):
            raise UserError(
                f"{at} needs the values of its tensors, which an analysis of shapes has not ({reason}): give real tensors and device='cpu'"
            ) from None
        raise UsageError(f"{name} fails on {given}: {at} got {got} ({reason}); give it an input of another size") from None


class Modules:
    """Which module is at work, and what went in and out of each."""

    def __init__(self, module: nn.Module):
        self.parts = dict(module.named_modules())
        self.parameters = list({id(p): p for part in self.parts.values() for p in part._parameters.values() if p is not None}.values())
        self.buffers = [b for part in self.parts.values() for b in part._buffers.values() if b is not None]
        self.open: list[Call] = []
        self.calls: list[Call] = []  # of the modules that ran
        self.failed: Call | None = None  # the innermost that raised an error which nothing has caught

    @contextmanager
    def followed(self, sight: Callable[[Tensor], Sight | None] = lambda _: None) -> Iterator[None]:
        """Notes every call of a module while open. Each forward is wrapped, which costs a call half of what hooks would."""
        counted: set[int] = set()
        before = {path: part.__dict__.get("forward") for path, part in self.parts.items()}  # a few modules have one of their own
        for path, part in self.parts.items():
            own = [p for p in part._parameters.values() if p is not None and id(p) not in counted]
            counted |= {id(p) for p in own}
            call = Call(path, type(part).__name__, sum(p.numel() for p in own), not part._modules)
            part.__dict__["forward"] = self._followed(part.forward, call, sight)
        try:
            yield
        finally:
            for path, part in self.parts.items():
                del part.__dict__["forward"]
                if before[path] is not None:
                    part.__dict__["forward"] = before[path]

    def _followed(self, forward: Callable[..., Any], call: Call, sight: Callable[[Tensor], Sight | None]) -> Callable[..., Any]:
        def followed(*args: Any, **kwargs: Any) -> Any:
            if not call.times:
                self.calls.append(call)
            call.times += 1
            self.open.append(call)
            try:
                out = forward(*args, **kwargs)
            except Exception:
                if self.failed is None:
                    self.failed, call.inputs = call, _shapes((args, kwargs))
                raise
            finally:
                self.open.pop()
            self.failed = None
            found = _tensors(out)
            call.outputs = [tuple(tensor.shape) for tensor in found]
            call.sight = sight(found[0]) if found else None
            return out

        return followed

    @property
    def idle(self) -> list[tuple[str, int]]:
        """Modules with parameters that did not run, with those."""
        ran = {call.path for call in self.calls}
        counts = {
            path: sum(p.numel() for p in m._parameters.values() if p is not None) for path, m in self.parts.items() if path not in ran
        }
        return [(path, count) for path, count in counts.items() if count]


@dataclass(slots=True)
class Noted:
    """What is known of a tensor as long as it lives."""

    life: weakref.ref[Tensor]
    memory: int | None  # its storage's number; none where that is the module's own
    sight: Sight | None = None
    depth: int = 0  # convolutions and linear layers on the longest path to it
    reduced: int | None = None  # channels before the 1x1 convolution that made it, where that reduced them


class Tensors:
    """The activations: what is known of each, how much memory is alive, and between which operations each memory is needed."""

    def __init__(self, owned: Iterable[Tensor]):
        self._owned = {t.untyped_storage()._cdata for t in owned}  # the module's own tensors are no activations
        self._noted: dict[int, Noted] = {}  # by id
        self._holders: dict[int, int] = {}  # by a storage's address: how many tensors hold it
        self._number: dict[int, int] = {}  # by address, which is used again after a release: a number that is not
        self.elements: list[int] = []
        self.born: list[int] = []
        self.last_read: list[int] = []
        self.live = 0

    def __getitem__(self, tensor: Tensor) -> Noted | None:
        return self._noted.get(id(tensor))

    def sight(self, tensor: Tensor) -> Sight | None:
        noted = self._noted.get(id(tensor))
        return None if noted is None else noted.sight

    def hold(self, tensor: Tensor, now: int) -> tuple[Noted, bool]:
        """Note the tensor, and count its memory as alive while any tensor holds it; whether that memory is new."""
        key = id(tensor)
        noted = self._noted.get(key)
        if noted is not None:
            return noted, False
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        fresh = address not in self._number and address not in self._owned
        if fresh:
            self._number[address], self._holders[address] = len(self.elements), 0
            self.elements.append(size // tensor.element_size())
            self.born.append(now)
            self.last_read.append(now)
            self.live += size
        if address not in self._owned:
            self._holders[address] += 1

        def release(_: object) -> None:
            del self._noted[key]
            if address not in self._owned:
                self._holders[address] -= 1
                if not self._holders[address]:
                    del self._holders[address], self._number[address]
                    self.live -= size

        noted = self._noted[key] = Noted(weakref.ref(tensor, release), self._number.get(address))
        return noted, fresh

    def read(self, tensor: Tensor, now: int) -> None:
        noted = self._noted.get(id(tensor))
        if noted is not None and noted.memory is not None:
            self.last_read[noted.memory] = now


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every ATen operator with the module that called it, and follows what each tensor's units see."""

    def __init__(self, modules: Modules):
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.tensors = Tensors((*modules.parameters, *modules.buffers))
        self.operations: list[Operation] = []
        self.inputs = 0
        self.peak = 0
        self.peak_at = ""

    def begin(self, tensor: Tensor, sight: Sight | None) -> None:
        noted, _ = self.tensors.hold(tensor, -1)
        noted.sight = sight
        self.inputs = len(self.tensors.elements)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = computed(func, args, kwargs)
        if not self.modules.open:
            return out
        now, tensors = len(self.operations), self.tensors
        call = operators.Call(func, args, kwargs, out, tensors.sight)
        kind, given, results = call.kind, call.tensors(), _tensors(out)
        sight, understood = operators.sight_of(call)
        each = sight if isinstance(sight, list) else [sight] * len(results)

        depth = max([noted.depth for t in given if (noted := tensors[t])], default=0) + (kind.flops is not None)
        fresh = []
        for tensor, what in zip(results, each, strict=False):
            noted, new = tensors.hold(tensor, now)
            noted.depth = max(depth, noted.depth)
            if what is not None:
                noted.sight = what
                if kind.mutable:
                    self._also_the_whole(tensor, what)
            if new:
                fresh.append(tensor)
        for tensor in given:
            tensors.read(tensor, now)
        if tensors.live > self.peak:
            self.peak, self.peak_at = tensors.live, self.modules.open[-1].path

        moves = bool(fresh) or kind.mutable
        operation = Operation(
            order=now,
            name=kind.name,
            macs=kind.flops(*args, **kwargs, out_val=out) // 2 if kind.flops else 0,
            read=sum(map(_bytes, given)) if moves else 0,
            written=sum(map(_bytes, results)) if moves else 0,
            activation=_bytes(results[0]) if fresh and fresh[0] is results[0] else 0,
            depth=depth,
            grid=bool(each and each[0]) and all(axis.dim is not None and axis.units > 1 for axis in each[0] or ()),
            understood=understood,
            kernel=self._kernel(call, given, results) if results else None,
        )
        self.operations.append(operation)
        self.modules.open[-1].operations.append(operation)
        return out

    def note_cuts(self) -> None:
        """After each operation, the elements that some later one reads: what information can pass through there."""
        change = [0] * (len(self.operations) + 1)
        tensors = self.tensors
        for number in range(self.inputs, len(tensors.elements)):
            change[tensors.born[number]] += tensors.elements[number]
            change[tensors.last_read[number]] -= tensors.elements[number]
        total = 0
        for operation, by in zip(self.operations, change, strict=False):
            total += by
            operation.cut = total

    def _kernel(self, call: operators.Call, given: list[Tensor], results: list[Tensor]) -> Kernel | None:
        """A convolution's kernel; and remember 1x1 convolutions that reduce, up to the next one."""
        result = self.tensors[results[0]]
        if not given or result is None:
            return None
        source = given[0]
        noted = self.tensors[source]
        before = None if noted is None else noted.reduced
        if call.kind.name not in CONVOLUTIONS:
            if before is not None and results[0].dim() == source.dim() and results[0].shape[1:2] == source.shape[1:2]:
                result.reduced = before
            return None
        sides = tuple(call["weight"].shape[2:])
        kernel = Kernel(sides, source.shape[1], results[0].shape[1], call["groups"], before)
        if max(sides) == 1 and kernel.channels_in > kernel.channels_out:
            result.reduced = kernel.channels_in
        elif before is not None and (max(sides) > 1 or kernel.channels_in == kernel.channels_out):
            result.reduced = before  # a second convolution on the same embedding
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
        noted, _ = self.tensors.hold(whole, len(self.operations))
        before = noted.sight
        noted.sight = spread if before is None else sights.joined([(before, whole.shape), (spread, whole.shape)], whole.shape)


@uncollected()
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


def _tensors(value: Any) -> list[Tensor]:
    """Those in any structure, the plain ones without torch's slower walk."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and all(isinstance(inner, Tensor) for inner in value):
        return list(value)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _shapes(value: Any) -> list[Shape]:
    return [tuple(tensor.shape) for tensor in _tensors(value)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
