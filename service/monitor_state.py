"""The monitor's state in a file, so that a restart forgets neither evidence nor fallback."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = 1


class MonitorState:
    """One file per version of a model, replaced as a whole.

    Parameters
    ----------
    folder : made where it is missing
    version : of the model, the beginning of its bundle's digest
    """

    def __init__(self, folder: Path, version: str) -> None:
        self.path = folder / f"{version}.json"

    def read(self) -> dict[str, Any] | None:
        """What was written last; None before the first time.

        Raises
        ------
        OSError, ValueError
            When there is something, but it cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"expected a JSON object with the schema {SCHEMA}")
        return document

    def write(self, document: dict[str, Any]) -> None:
        """Write it beside, then rename: whoever reads finds the old or the new one, whole.

        Raises
        ------
        OSError
            When it cannot be written; what was there before still is.
        """
        content = json.dumps({"schema": SCHEMA, **document}, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside, name = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
        try:
            with os.fdopen(beside, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
