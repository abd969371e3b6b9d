"""LeNet-5. LeCun et al. 1998, sec. II-C (loss) and III (experiments).

Run: convatlas train lenet5 --data mnist --recipe paper.
"""

from convatlas.data.transforms.normalize import PixelRange
from convatlas.optim.losses import MAPCriterion
from convatlas.optim.optimizers import SGD
from convatlas.optim.schedules import MultiStep, OneCycle
from convatlas.recipes.recipe import Epochs, Recipe

# "two passes at 0.0005, three at 0.0002, three at 0.0001, four at 0.00005, thereafter 0.00001", of 20 passes
PASSES = (2, 3, 3, 4)
RATES = (0.0005, 0.0002, 0.0001, 0.00005, 0.00001)

LENET5 = Recipe(
    name="lenet5",
    source="Proc. IEEE 86(11), sec. II-C, III-B",
    batch=1,  # stochastic: the weights are updated after every pattern
    batch_rule=None,
    budget=Epochs(20),
    optimizer=SGD(lr=0.001),
    schedule=MultiStep(
        milestones=tuple(sum(PASSES[: i + 1]) / 20 for i in range(4)),
        factors=tuple(rate / RATES[0] for rate in RATES[1:]),
    ),
    loss=MAPCriterion(j=1.0),
    normalize=PixelRange(low=-0.1, high=1.175),
    unstated=("loss: the constant j of eq. 9",),
    substituted={
        "stochastic diagonal Levenberg-Marquardt": "plain SGD: torch has no backpropagation of diagonal "
        "second derivatives. One rate of 0.001 for all weights replaces the paper's rates, which were "
        "between 7e-5 and 0.016 in the first pass (their geometric mean)",
    },
)

LENET5_SMALL = LENET5.replace(
    name="lenet5_small",
    batch=128,
    batch_rule="linear",
    budget=Epochs(8),
    optimizer=SGD(lr=0.003, momentum=0.9, nesterov=True),
    schedule=OneCycle(),
    reduced={
        "batch": "128 patterns a step in place of one: either step takes the same time on a modern machine",
        "schedule": "8 passes, one cycle, in place of 20 with the printed rates",
    },
)
