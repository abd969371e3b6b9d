"""The four design principles of Szegedy et al. 2015, arXiv:1512.00567, sec. 2, as measurements.

A flag is advice, with its numbers. The paper itself calls the utility of its principles speculative; the
thresholds below are ours.
"""

import math
from collections.abc import Sequence

from convatlas.analysis.rows import Row
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import Operation
from convatlas.analysis.trace.trace import Trace
from convatlas.storage.records import Record

MAX_DROP = 3.0  # a cut with less than a third of the elements of every earlier cut is a bottleneck
MAX_LAYERS_PER_CHANNEL = 4.0
MAX_CHANNELS_PER_LAYER = 64.0
MAX_UNREDUCED_SHARE = 0.5  # of the spatial multiply-adds, on channels that nothing has reduced
MAX_STAGE_SHARE = 0.5  # of the multiply-adds, in one stage


class Finding(Record, frozen=True):
    principle: str
    reading: str  # the measurement, as a sentence
    flags: list[str]


Steps = Sequence[tuple[ModuleCall, Operation]]
"""The operations of a forward pass in their order, each with its module."""


def measure_principles(trace: Trace, stages: Sequence[Row]) -> list[Finding]:
    steps = [(call, operation) for call in trace.calls for operation in call.operations]
    steps.sort(key=lambda step: step[1].index)
    return [
        information_through_cuts(steps),
        width_against_depth(steps),
        aggregation_after_reduction(steps),
        cost_by_stage(stages),
    ]


def information_through_cuts(steps: Steps) -> Finding:
    """Principle 1: the representation should shrink gently; a cut through the network bounds what can pass.

    The size of a cut is the number of elements that any later operator reads. Pooling before widening divides
    it by the square of the stride; widening first, or both side by side, by less. It is measured from the
    first layer on, as long as there is a feature map.
    """
    principle = "information through each cut"
    sizes: list[int] = []
    smallest = math.inf
    flags = []
    for call, operation in steps:
        size = operation.live_elements
        if not operation.is_feature_map or not size:
            continue
        if sizes and size * MAX_DROP < smallest:
            flags.append(
                f"{call.path or call.class_name}: {operation.name} leaves {size:,} of at least {smallest:,} "
                f"elements before it, {smallest / size:.1f} times fewer: widen before reducing, or reduce "
                "side by side (sec. 5)"
            )
        sizes.append(size)
        smallest = min(smallest, size)
    if not sizes:
        return Finding(principle, "no feature map", [])
    reading = (
        f"{sizes[0]:,} elements after the first layer, {sizes[-1]:,} in the last map, "
        f"at most {max(sizes):,}; flagged beyond a drop of {MAX_DROP:g}"
    )
    return Finding(principle, reading, flags)


def width_against_depth(steps: Steps) -> Finding:
    """Principle 4: width and depth should grow together.

    The width is the mean number of output channels, each layer weighted by its multiply-adds.
    """
    principle = "width against depth"
    convs = [(operation.conv, operation.macs) for _, operation in steps if operation.conv is not None]
    total_macs = sum(macs for _, macs in convs)
    if not total_macs:
        return Finding(principle, "no convolutions", [])
    depth = max(operation.depth for _, operation in steps)
    width = sum(macs * conv.out_channels for conv, macs in convs) / total_macs
    reading = (
        f"{depth} convolutions and linear layers on the longest path, {width:,.0f} channels wide: "
        f"{width / depth:.2f} channels to a layer"
    )
    advice = "doubling all channels costs 4 times, all layers 2 times"
    flags = []
    if depth > MAX_LAYERS_PER_CHANNEL * width:
        limit = f"{MAX_LAYERS_PER_CHANNEL:g} layers to a channel"
        flags.append(f"deep for its width: more than {limit}; {advice}")
    if width > MAX_CHANNELS_PER_LAYER * depth:
        limit = f"{MAX_CHANNELS_PER_LAYER:g} channels to a layer"
        flags.append(f"wide for its depth: more than {limit}; {advice}")
    return Finding(principle, reading, flags)


def aggregation_after_reduction(steps: Steps) -> Finding:
    """Principle 2: spatial aggregation can be done over lower dimensional embeddings.

    A 1x1 convolution reduces the channels before, or each channel is convolved by itself.
    """
    principle = "aggregation after reduction"
    total_macs = reduced_macs = num_spatial = num_reduced = 0
    unreduced = []
    for call, operation in steps:
        conv = operation.conv
        if conv is None or max(conv.kernel_size) == 1 or conv.in_channels <= 4:
            continue
        num_spatial += 1
        total_macs += operation.macs
        if conv.unreduced_channels is not None or conv.groups == conv.in_channels:
            num_reduced += 1
            reduced_macs += operation.macs
        else:
            unreduced.append((operation.macs, call, conv))
    if not total_macs:
        return Finding(principle, "no spatial convolutions beyond the first layer", [])
    reading = (
        f"{num_reduced} of {num_spatial} spatial convolutions, {100 * reduced_macs / total_macs:.0f} % of "
        "their multiply-adds, work on reduced or single channels"
    )
    flags = []
    if total_macs - reduced_macs > MAX_UNREDUCED_SHARE * total_macs:
        macs, call, conv = max(unreduced, key=lambda layer: layer[0])
        percent = 100 * (total_macs - reduced_macs) / total_macs
        kernel_size = "x".join(map(str, conv.kernel_size))
        flags.append(
            f"{percent:.0f} % aggregate over unreduced channels; the largest, "
            f"{call.path or call.class_name}, is {kernel_size} on {conv.in_channels} channels, {macs:,} "
            "multiply-adds: a 1x1 convolution to half as many before it would save nearly half of that"
        )
    return Finding(principle, reading, flags)


def cost_by_stage(stages: Sequence[Row]) -> Finding:
    """Principle 4 again, over the stages: the distribution of the computational budget."""
    principle = "cost by stage"
    macs = sum(row.macs for row in stages)
    params = max(1, sum(row.params for row in stages))
    if not macs:
        return Finding(principle, "no multiply-adds", [])
    largest = sorted(stages, key=lambda row: -row.macs)[:4]
    shares = ", ".join(f"{row.path} {100 * row.macs / macs:.0f} %" for row in largest)
    flags = [
        f"{row.path} takes {100 * row.macs / macs:.0f} % of the multiply-adds, "
        f"for {100 * row.params / params:.0f} % of the parameters"
        for row in stages
        if row.macs > MAX_STAGE_SHARE * macs and len(stages) > 1
    ]
    return Finding(principle, f"most of the multiply-adds: {shares}", flags)
