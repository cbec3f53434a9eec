"""A page of results, of which one section is written anew."""

from __future__ import annotations

import re


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
