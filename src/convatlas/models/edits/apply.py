"""Edits applied to a module, in order, each checked."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from convatlas.analysis.trace.meta_copy import copy_to_device
from convatlas.errors import UsageError, UserError, wrong_type
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target

MAX_EDITS = 32


def apply(module: nn.Module, edits: Sequence[EditRecord], input: Any = None) -> nn.Module:
    """Change any module in place by edits, in their order; returns the module.

    Layers that stay keep their weights; those that an edit adds are initialised as the network's own. After
    each edit the operators of a forward are counted, auxiliary heads included: one that leaves an operator
    which it should have removed is refused with its place. A network of `create_model` records its edits.

    `input`: (channels, height, width) of one image, or example inputs, as in `ca.analyze`; a network of
    `create_model` needs none. Without it no operator is counted, and edits that need shapes are refused.

    Raises UsageError for an edit that touches nothing or cannot be applied; then the module is unchanged.
    """
    if not isinstance(module, nn.Module):
        raise wrong_type("what edits change", module, "an nn.Module")
    check_edits(edits)
    example = getattr(module, "input_shape", None) if input is None else input
    init_layer = getattr(module, "init_layer", None)
    # on a copy without values, so that a refused edit leaves the module as it was
    rehearsal = Target(copy_to_device(module, "meta"), example, init_layer)
    for edit in edits:
        _apply_checked(edit, rehearsal)
    target = Target(module, example, init_layer)
    for edit in edits:
        edit.change(target)
    architecture = getattr(module, "architecture", None)
    if architecture is not None:
        module.architecture = architecture.replace(edits=(*architecture.edits, *edits))
    return module


def check_edits(edits: object) -> None:
    """Raises UsageError for what is no list of edits, and for too many."""
    if not isinstance(edits, list | tuple) or not all(isinstance(edit, EditRecord) for edit in edits):
        raise UsageError('edits should be a list of records, such as [ca.edits.SwapActivation(to="tanh")]')
    if len(edits) > MAX_EDITS:
        raise UsageError(f"{len(edits)} edits of one network: expected at most {MAX_EDITS}")


def _apply_checked(edit: EditRecord, target: Target) -> None:
    """Raises UsageError, which names the edit and the network."""
    if edit.needs_forward and target.example is None:
        raise UsageError(
            f"{edit} needs the shapes of a forward: give input=(channels, height, width) of one image"
        )
    try:
        if not edit.change(target):
            raise UsageError(f"touches nothing, since {edit.nothing(target)}")
    except UserError as error:
        raise UsageError(f"{edit} of {target.name}: {error}") from None
    if target.example is None:
        return
    try:
        operations = list(target.operations())
    except UserError as error:
        raise UsageError(f"{target.name} with {edit} does not run: {error}") from None
    for call, operation in operations:
        if operation.name.rstrip("_") in edit.excluded_operators:
            place = f"{call.path} ({call.class_name})" if call.path else call.class_name
            raise UsageError(
                f"{edit} of {target.name} leaves {operation.name.rstrip('_')} in {place}, which is no module "
                "that it knows: make it one, such as nn.ReLU"
            )
