"""`reference.json`: what the service compares live answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from models.bundle import REFERENCE
from models.errors import BundleError
from models.manifest import GuaranteeKind, Level
from models.measurements import Share
from models.record import Record

LEVELS = 64
"""Quantiles that are kept of every distribution, at the middles of as many equal shares."""


class Limit(Record):
    """What the policy's answers may lose towards the last exit's, in the mean over live rows."""

    guarantee: GuaranteeKind
    mean_loss: Level
    source: Literal["promised", "measured"]
    """`promised` where it is what the certificate says; `measured` where the certificate counts
    towards true labels, which live rows do not have: an upper bound, at the certificate's level, on
    the loss over the test split."""


class LiveReference(Record):
    """The deployed policy's answers, as far as the service can hold live ones against them."""

    limits: tuple[Limit, ...]
    """One per promise; none where no early exit is certified."""
    rows: Annotated[int, Field(gt=0)]
    """Of the certify split."""
    probabilities: tuple[tuple[Share, ...], ...]
    """[label][level]: quantiles of the policy's probabilities on the certify split."""
    scores: tuple[Share, ...]
    """[level]: quantiles of the score of the policy's answers there."""


def read_reference(files: Mapping[str, bytes]) -> LiveReference | None:
    """The reference among a bundle's files; None where it carries none.

    Raises
    ------
    BundleError
        When it does not follow the schema.
    """
    if REFERENCE not in files:
        return None
    try:
        return LiveReference.model_validate_json(files[REFERENCE])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "document"
        raise BundleError(
            f"{REFERENCE} does not follow the schema: {field}: {first['msg']}; calibrate again "
            "with this version"
        ) from error
