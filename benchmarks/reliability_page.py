"""The page of what the service does under load and under faults: one table, a row per test."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from result_page import with_section

from models.machine import machine_name

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
HEADING = "## The tests and what they found"
HEAD = ("test", "expected", "found", "", "command", "run")
VERDICTS = {True: "pass", False: "**fail**"}


@dataclass(frozen=True)
class Row:
    """One test of the page.

    test : its name; a row of the same name is replaced
    expected : the pass mark
    found : the figures
    passed : whether they meet it
    command : what measures them again
    run : when and on what they were measured; filled in when the row is written
    """

    test: str
    expected: str
    found: str
    passed: bool
    command: str
    run: str = ""


def write_row(row: Row, page: Path = PAGE) -> None:
    """Put a row into the page's table, which is made where there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    rows = {known.test: known for known in read_rows(text)}
    rows[row.test] = replace(row, run=this_run())
    page.write_text(with_section(text, HEADING, _section(list(rows.values()))), encoding="utf-8")


def read_rows(text: str) -> list[Row]:
    """The rows of a page's table."""
    section = text.partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    runs = dict(re.findall(r"^(\d+)\. (.+)$", section, re.MULTILINE))
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]
    return [
        Row(test, expected, found, verdict == VERDICTS[True], command.strip("`"), runs[run])
        for test, expected, found, verdict, command, run in cells
    ]


def this_run() -> str:
    """The date, the machine, and the versions that a row was measured with."""
    import onnxruntime  # of which there are two packages

    versions = {
        "Python": platform.python_version(),
        "BentoML": version("bentoml"),
        "ONNX Runtime": onnxruntime.__version__,
        "grpcio": version("grpcio"),
    }
    date = datetime.now(UTC).date().isoformat()
    return "; ".join([date, machine_name(), *map(" ".join, versions.items())])


def _section(rows: Sequence[Row]) -> str:
    runs = list(dict.fromkeys(row.run for row in rows))
    table = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        number = str(runs.index(row.run) + 1)
        cells = [row.test, row.expected, row.found, VERDICTS[row.passed], f"`{row.command}`"]
        table.append((*map(_cell, cells), number))
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    notes = [f"{number}. {run}" for number, run in enumerate(runs, start=1)]
    return "\n".join([HEADING, "", *lines, "", "Runs:", "", *notes])


def _cell(text: str) -> str:
    """In one line, without what would end the cell."""
    return " ".join(text.replace("|", "/").split())
