"""The four design principles of Szegedy et al. 2015, arXiv:1512.00567, sec. 2, as measurements. A flag is advice, with its numbers.

The paper itself calls the utility of its principles speculative; the thresholds below are ours.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import Operation
from convatlas.analysis.trace.trace import Trace
from convatlas.storage.records import Record

if TYPE_CHECKING:
    from convatlas.analysis.rows import Row

DROP = 3.0  # a cut that carries less than a third of what every cut before it carried is a bottleneck
DEEP, WIDE = 4.0, 64.0  # layers to a channel, channels to a layer
AGGREGATION = 0.5  # share of spatial multiply-adds on embeddings that nothing has reduced
SHARE = 0.5  # of the multiply-adds, in one stage


class Finding(Record, frozen=True):
    principle: str
    reading: str
    flags: list[str]


def principles(trace: Trace, stages: "Sequence[Row]") -> list[Finding]:
    steps = [(call, operation) for call in trace.calls for operation in call.operations]
    steps.sort(key=lambda step: step[1].order)
    return [information(steps), balance(steps), aggregation(steps), shares(stages)]


Steps = Sequence[tuple[ModuleCall, Operation]]


def information(steps: Steps) -> Finding:
    """Principle 1: the representation should shrink gently; a cut through the network bounds what can pass.

    The size of a cut: all elements that any later operator reads. Of pooling before widening it falls by the square of the stride; of
    widening first, or of both side by side, by less. Measured from the first layer on, as long as there is a map.
    """
    least: float | None = None
    first = 0
    flags, sizes = [], []
    for call, operation in steps:
        if not operation.grid or not operation.cut:
            continue
        if least is None:
            least = first = operation.cut
        if operation.cut * DROP < least:
            flags.append(
                f"{call.path or call.kind}: {operation.name} leaves {operation.cut:,} of at least {least:,} elements "
                f"before it, {least / operation.cut:.1f} times fewer: widen before reducing, or reduce side by side (sec. 5)"
            )
        least = min(least, operation.cut)
        sizes.append(operation.cut)
    if not sizes or least is None:
        return Finding("information through each cut", "no map to cut", [])
    reading = f"{first:,} elements after the first layer, {sizes[-1]:,} in the last map, at most {max(sizes):,}"
    return Finding("information through each cut", f"{reading}; flagged beyond a drop of {DROP:g}", flags)


def balance(steps: Steps) -> Finding:
    """Principle 4: width and depth should grow together. Width: output channels, each layer counted by its multiply-adds."""
    layers = [operation for _, operation in steps if operation.kernel is not None]
    macs = sum(layer.macs for layer in layers)
    if not macs:
        return Finding("width against depth", "no convolutions", [])
    depth = max(operation.depth for _, operation in steps)
    width = sum(layer.macs * layer.kernel.channels_out for layer in layers if layer.kernel) / macs
    reading = (
        f"{depth} convolutions and linear layers on the longest path, {width:,.0f} channels wide: {width / depth:.2f} channels to a layer"
    )
    flags = []
    if depth > DEEP * width:
        flags.append(f"deep for its width: more than {DEEP:g} layers to a channel; doubling all channels costs 4 times, all layers 2 times")
    if width > WIDE * depth:
        flags.append(f"wide for its depth: more than {WIDE:g} channels to a layer; doubling all channels costs 4 times, all layers 2 times")
    return Finding("width against depth", reading, flags)


def aggregation(steps: Steps) -> Finding:
    """Principle 2: spatial aggregation can be done over lower dimensional embeddings, as by a 1x1 convolution that reduces before."""
    spatial = [(call, o) for call, o in steps if o.kernel is not None and max(o.kernel.sides) > 1 and o.kernel.channels_in > 4]
    macs = sum(o.macs for _, o in spatial)
    if not macs:
        return Finding("aggregation after reduction", "no spatial convolutions beyond the first layer", [])
    cheap = [(c, o) for c, o in spatial if o.kernel and (o.kernel.reduced_from is not None or o.kernel.groups == o.kernel.channels_in)]
    reduced = sum(o.macs for _, o in cheap)
    reading = (
        f"{len(cheap)} of {len(spatial)} spatial convolutions, {100 * reduced / macs:.0f} % of their multiply-adds, "
        "work on reduced or single channels"
    )
    flags = []
    if macs - reduced > AGGREGATION * macs:
        rest = [(c, o) for c, o in spatial if (c, o) not in cheap]
        call, largest = max(rest, key=lambda step: step[1].macs)
        assert largest.kernel is not None
        sides = "x".join(map(str, largest.kernel.sides))
        flags.append(
            f"{100 * (macs - reduced) / macs:.0f} % aggregate over unreduced channels; the largest, {call.path or call.kind}, is {sides} "
            f"on {largest.kernel.channels_in} channels, {largest.macs:,} multiply-adds: a 1x1 convolution to half as many before it would "
            "save nearly half of that"
        )
    return Finding("aggregation after reduction", reading, flags)


def shares(stages: "Sequence[Row]") -> Finding:
    """Principle 4 again, over the stages: where the computational budget goes."""
    total, params = sum(row.macs for row in stages), max(1, sum(row.params for row in stages))
    if not total:
        return Finding("cost by stage", "nothing is multiplied", [])
    largest = sorted(stages, key=lambda row: -row.macs)[:4]
    reading = ", ".join(f"{row.path} {100 * row.macs / total:.0f} %" for row in largest)
    return Finding(
        "cost by stage",
        f"most of the multiply-adds: {reading}",
        [
            f"{row.path} takes {100 * row.macs / total:.0f} % of the multiply-adds, for {100 * row.params / params:.0f} % of the parameters"
            for row in stages
            if row.macs > SHARE * total and len(stages) > 1
        ],
    )
