"""Which samples of a source can be used: not those on the quarantine list, without a usable mask, or of equal
content with different targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.conflicts import describe_conflicts, find_conflicts
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.source import Conflicts, RawDataset
from convatlas.errors import UserError, printable


class UsableSamples(NamedTuple):
    """Which samples of a source can be used, with notes of decisions and warnings of what changes nothing."""

    hashes: list[bytes]  # of the content of every sample
    quarantined: Sequence[str]  # those of known broken samples
    usable: NDArray[np.bool_]  # (n,)
    notes: list[str]
    warnings: list[str]


def find_usable_samples(
    source: RawDataset, quarantined: Sequence[str] | None, conflicts: Conflicts | None
) -> UsableSamples:
    """conflicts: None keeps samples with the same content and different classes, with a warning; samples
    without a usable mask are left out.

    Raises UserError for samples of either kind where `conflicts` is "stop".
    """
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    if quarantined is None:
        quarantined = _list_quarantined(source.root, hashes)
    left_out = set(quarantined)
    usable = np.array([content_hash.hex() not in left_out for content_hash in hashes], bool)
    samples = UsableSamples(hashes, quarantined, usable, list(source.notes), list(source.warnings))
    if not usable.all():
        count = int((~usable).sum())
        samples.notes.append(f"{count:,} broken files are left out: they are on the quarantine list")
    _leave_out_broken(source, samples, conflicts)
    _leave_out_conflicts(source, samples, conflicts)
    return samples


def _leave_out_broken(source: RawDataset, samples: UsableSamples, conflicts: Conflicts | None) -> None:
    broken = [index for index in sorted(source.broken) if samples.usable[index]]
    if not broken:
        return
    first = printable(source.broken[broken[0]])
    count = f"{len(broken):,} of {len(samples.hashes):,} masks of {printable(source.name)}"
    if conflicts == "stop":
        raise UserError(
            f"{count} cannot be used, the first: {first}; convatlas data check lists all; correct them, or "
            "leave their images out with --set data.conflicts=drop"
        )
    samples.usable[broken] = False
    samples.notes.append(f"{count} cannot be used, and their images are left out, the first: {first}")


def _leave_out_conflicts(source: RawDataset, samples: UsableSamples, conflicts: Conflicts | None) -> None:
    hashes, usable = samples.hashes, samples.usable
    used = np.concatenate([np.zeros(0, np.int64), *source.splits.values()]) if source.splits else None
    candidates = np.flatnonzero(usable) if used is None else used[usable[used]]
    sets = find_conflicts(source.images, source.targets, hashes, candidates)
    if not sets:
        return
    pairs = describe_conflicts(sets, source.images, source.target_name)
    count = sum(map(len, sets))
    kind = "masks" if source.masks else "classes"
    if source.published or conflicts is None:
        samples.warnings.append(f"{count:,} images have the same content and different {kind}: {pairs}")
    elif conflicts == "stop":
        raise UserError(
            f"{printable(source.name)} has {count:,} files with the same content under different {kind}: "
            f"{pairs}; remove the wrong ones, or leave all of them out with --set data.conflicts=drop"
        )
    else:
        usable[np.concatenate(sets)] = False
        samples.notes.append(
            f"{count:,} files with the same content under different {kind} are left out: {pairs}"
        )


def _list_quarantined(root: Path | None, hashes: Sequence[bytes]) -> list[str]:
    """The content hashes on the quarantine list that occur in the source, sorted."""
    listed = {entry.content for entry in Quarantine(root).entries()} if root else set()
    return sorted(listed & {content_hash.hex() for content_hash in hashes})
