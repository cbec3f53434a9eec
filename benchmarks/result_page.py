"""A page of results, of which one section is written anew."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path


def with_section(page: str, heading: str, section: str) -> str:
    """The page with a section in the place of the one under the same heading, else at its end.

    Parameters
    ----------
    heading : its first line, of level two; the section ends before the next one of that level
    """
    before, after = page, ""
    if found := re.search(rf"^{re.escape(heading)}$.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        before, after = page[: found.start()], page[found.end() :]
    parts = [before.rstrip(), section.strip(), after.strip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def write_section(path: Path, heading: str, parts: Sequence[str]) -> None:
    """Write a section of a page anew, or a new page."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(with_section(old, heading, "\n".join(parts)), encoding="utf-8")


def short(command: Sequence[str]) -> str:
    """A command's words, paths of this machine by their last part."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in command)


def mlserver_in_words(python: Path | None) -> str:
    """Its version in another environment; ends the program where that is not there."""
    if not python:
        return "MLServer was left out: `--mlserver-python` names none"
    if not python.exists():
        raise SystemExit(f"{python} is not there: expected the python of MLServer's environment")
    program = "from importlib.metadata import version; print(version('mlserver'))"
    found = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return f"MLServer {found.stdout.strip()}"
