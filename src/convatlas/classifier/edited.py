"""A trained classifier whose network is changed by edits."""

from collections.abc import Sequence

from convatlas import models
from convatlas.classifier.classifier import Classifier
from convatlas.errors import UsageError
from convatlas.models.edits import Edit


def edited_classifier(classifier: Classifier, edits: Sequence[Edit]) -> Classifier:
    """A classifier with the weights of another, its network changed by edits that need no training.

    Its metrics are left out: they are not those of this network. Raises UsageError for an edit that adds
    weights, or changes their shapes.
    """
    metadata = classifier.metadata
    network = models.build(metadata.network.replace(edits=(*metadata.network.edits, *edits)))
    trained = classifier.model.state_dict()
    expected = network.state_dict()
    for key, tensor in expected.items():
        if key not in trained or trained[key].shape != tensor.shape:
            raise UsageError(
                f"{' and '.join(map(str, edits))} needs a {key} that no training has set: train the network "
                "with --edit"
            )
    network.load_state_dict({key: trained[key] for key in expected})
    assert network.architecture is not None
    changed = metadata.replace(network=network.architecture, metrics={})
    return Classifier(changed, network, classifier.normalizer, classifier.runtime)
