"""The study of arXiv:1702.08591 (The Shattered Gradients Problem)."""

from convatlas.studies.claims import Ordered, Value
from convatlas.studies.study import Scale, Study, UntrainedArm

DEPTHS = (2, 8, 32)
# Theorems 1 and 3, and 2 by its derivation: a unit is active for half of the inputs, for both of two for a
# quarter of the pairs
PREDICTED = {
    "plain": {depth: 0.5**depth for depth in DEPTHS},
    "residual": {depth: 0.75**depth for depth in DEPTHS},
    "residual with batch norm": {depth: depth**-0.5 for depth in DEPTHS},
}
WITHIN = 0.05  # of a predicted correlation


def _arm(kind: str, depth: int, independent_masks: bool) -> UntrainedArm:
    return UntrainedArm(
        measure="gradient_correlation",
        arguments={"kind": kind, "depth": depth, "independent_masks": independent_masks},
        printed={"correlation": PREDICTED[kind][depth]},
    )


SHATTERED = Study(
    id="gradients.shattered",
    source="arXiv:1702.08591, Theorems 1 to 3",
    question="Do the gradients at two inputs lose their correlation with depth, and do shortcuts keep it?",
    metric="correlation",
    arms={
        f"{kind}, {depth} layers{', masks tossed' if tossed else ''}": _arm(kind, depth, tossed)
        for tossed in (False, True)
        for kind in PREDICTED
        for depth in DEPTHS
    },
    claims=(
        *(
            Value(
                a=f"{kind}, 8 layers, masks tossed",
                metric="correlation",
                value=PREDICTED[kind][8],
                within=WITHIN,
                source=source,
            )
            for kind, source in (
                ("plain", "Theorem 1: 1/2^L"),
                ("residual", "Theorem 2: (3/4)^L"),
                ("residual with batch norm", "Theorem 3: about 1/sqrt(L)"),
            )
        ),
        *(
            Value(
                a=f"{kind}, 8 layers",
                metric="correlation",
                value=PREDICTED[kind][8],
                within=WITHIN,
                source="the same, of a network whose own activations say which units are active",
            )
            for kind in PREDICTED
        ),
        Ordered(
            arms=tuple(f"{kind}, 8 layers" for kind in PREDICTED),
            metric="correlation",
            source="abstract: plain nets' gradients resemble white noise, those with shortcuts far less",
        ),
    ),
    scales={
        scale: Scale(
            seeds=seeds,
            reduced={"networks": "fully connected, 200 units a layer, Gaussian inputs; no training"},
        )
        for scale, seeds in (("smoke", 3), ("small", 20))
    },
)

STUDIES = (SHATTERED,)
