"""The cached evaluation of a network that labels pixels: how its masks compare with the targets, by image.

The masks themselves are not kept, so that an ensemble predicts again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convatlas.evaluation.eval_data import EvalData
from convatlas.evaluation.mask_predictions import read_mask_predictions, write_mask_predictions
from convatlas.evaluation.prediction_cache import load_entry, store_entry, subset_id
from convatlas.evaluation.predictions import FORMAT, PredictionsMetadata
from convatlas.evaluation.request import EnsembleMember
from convatlas.segmentation.task import MaskPredictions


@dataclass(frozen=True)
class MaskCache:
    """The entry of one evaluation in `folder` (None: nothing is kept)."""

    folder: Path | None
    metadata: PredictionsMetadata

    def load(self) -> tuple[MaskPredictions | None, list[str]]:
        """The cached predictions, or None; and notes for the user."""
        if self.folder is None:
            return None, []
        return load_entry(self.folder, self.metadata, read_mask_predictions)

    def store(self, predictions: MaskPredictions) -> list[str]:
        """Returns notes for the user where nothing can be cached."""
        if self.folder is None:
            return []
        write = partial(write_mask_predictions, predictions=predictions, metadata=self.metadata)
        return store_entry(self.folder, self.metadata, write)


def mask_cache(members: Sequence[EnsembleMember], selected: EvalData) -> MaskCache:
    """The entry of a network's evaluation on the selected images; of several, nothing is kept."""
    member = members[0]
    classifier = member.classifier
    metadata = PredictionsMetadata(
        format=FORMAT,
        run=str(classifier.metadata.provenance.get("run") or ""),
        data=selected.dataset.name,
        data_sha256=selected.dataset.sha256,
        split=selected.split,
        crops="whole",
        classes=classifier.metadata.classes,
        model=classifier.weights_sha256,
        subset=subset_id(selected.indices),
        precision=classifier.runtime.precision,
        environment=dict(classifier.runtime.environment()),
    )
    return MaskCache(member.cache_dir if len(members) == 1 else None, metadata)
