"""The probes of a run as records. Each is measured at every validation, on the first `images` of an even
choice of the training images: a function of the weights and of these images alone."""

from convatlas.storage.records import Record


class Probe(Record, frozen=True, kw_only=True):
    images: int = 256


class TrainingScores(Probe, frozen=True, tag=True, kw_only=True):
    """Loss and score in evaluation mode, without augmentation: what papers plot as training error."""

    images: int = 2000


class GradientNorms(Probe, frozen=True, tag=True, kw_only=True):
    """The 2-norm of the loss's gradient with respect to each layer's weight, in training mode."""


class ResponseDeviations(Probe, frozen=True, tag=True, kw_only=True):
    """The standard deviation of the output of each batch norm, before any addition and activation
    (arXiv:1512.03385, Fig. 7); of a network without, of each convolution and linear layer."""


class LogitGap(Probe, frozen=True, tag=True, kw_only=True):
    """The mean over images of the largest logit minus the mean of the others (arXiv:1512.00567, sec. 7)."""


class LossAlongGradient(Probe, frozen=True, tag=True, kw_only=True):
    """The loss after a step along its gradient, for each of the step sizes, and how far the gradient there is
    from the one here: its 2-norm distance, divided by the norm here (arXiv:1805.11604, Fig. 4)."""

    steps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)


AnyProbe = TrainingScores | GradientNorms | ResponseDeviations | LogitGap | LossAlongGradient
