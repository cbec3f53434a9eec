"""Builds the image of the default bundle and shows that it works: `make container-test`.

The container has no network, nothing to write to but `/tmp` and no rights; what asks runs in it.
Exits with 0 when everything held, with 1 when something did not, with 3 when nothing here can
build and run containers: then nothing was tested.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml

from container.bento import BASE, ROOT, build
from container.engine import Engine, NoEngineError, find_engine
from models.machine import machine_name

BUNDLE = ROOT / "bundles" / "digits"
REQUEST = ROOT / "examples" / "digits" / "request.json"
INSIDE = ROOT / "container" / "inside.py"
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)
SKIPPED = 3
STOP_SECONDS = 60
LANE_DIED = 70
"""What the server ends with when it cannot go on; `service/ending.py`."""
UNAVAILABLE = "StatusCode.UNAVAILABLE"
HTTP_PORT_TAKEN = "OFFRAMP_GRPC_PORT=3000"
"""The port of HTTP: the server finds out too late to refuse to start."""


@dataclass(frozen=True)
class Figures:
    """What was measured.

    bento, image : bytes
    build, ready : seconds for the image with the base at hand; from `run` to the first yes of
        `/readyz`
    memory : bytes, peak of the server's processes added up
    """

    bento: int
    image: int
    base: int
    build: float
    ready: float
    memory: int

    def lines(self, engine: Engine, base: str) -> str:
        """A table for the documentation."""
        bento, image, based, memory = (
            f"{size / 1e6:.{digits}f} MB"
            for size, digits in ((self.bento, 1), (self.image, 0), (self.base, 0), (self.memory, 0))
        )
        return (
            f"`make container-test` on {machine_name()}, {engine.command}, base `{base}`:\n\n"
            "| | |\n|---|---|\n"
            f"| Bento, bundle included | {bento} |\n"
            f"| image, unpacked | {image}, of which base {based} |\n"
            f"| building it, base at hand, packages not | {self.build:.0f} s |\n"
            f"| from `run` to ready, warm-up included | {self.ready:.1f} s |\n"
            f"| memory of the server's processes, peak after a few requests | {memory} |\n"
        )


def check(what: str, held: bool, found: object = "") -> None:
    """Print that it holds, or raise an AssertionError with what was found."""
    if not held:
        raise AssertionError(f"{what}: it does not hold, found {found!r}")
    print(f"  ok  {what}")


def check_image(report: dict[str, Any]) -> None:
    """What the running image may do and holds."""
    check("runs as user 1034, not root", report["user"] == 1034, report["user"])
    check("nothing but /tmp can be written", not report["writable"], report["writable"])
    check("has no network but loopback", report["network"] == ["lo"], report["network"])
    check("holds nothing of torch or calibration", not report["foreign"], report["foreign"])
    check("holds no CUDA library", not report["cuda"])
    first = report["first_process"]
    check("its first process is bentoml", any(one.endswith("bentoml") for one in first), first)


def try_image(engine: Engine, image: str) -> tuple[float, int]:
    """Ask a container everything; seconds to readiness and bytes of memory."""
    request = REQUEST.read_text()
    source = INSIDE.read_text()
    name = f"offramp-trial-{os.getpid()}"
    started = time.time()
    with engine.running(image, name) as container:
        report = json.loads(container.python(source, f"report\n{request}"))
        check_image(report)
        exits = report["http"]
        check("answers HTTP", len(exits) == len(json.loads(request)["rows"]), exits)
        check("answers gRPC, with the same exits", report["grpc"] == exits, report["grpc"])
        end = json.loads(container.python(source, f"stop\n{request}"))
        check("had rows waiting when SIGTERM came", end["waiting"] > 0, end)
        answered = sum(call for call in end["calls"] if isinstance(call, int))
        check("answered them all", answered >= end["waiting"], end)
        refused = [call for call in end["calls"] if not isinstance(call, int)]
        check("refused what came later", set(refused) <= {UNAVAILABLE}, end)
        status = container.wait(STOP_SECONDS)
        check("then ended with status 0", status == 0, f"{status}\n{container.logs()}")
    with engine.running(image, name, "--env", HTTP_PORT_TAKEN) as container:
        status = container.wait(STOP_SECONDS)
        check("passes status 70 on", status == LANE_DIED, f"{status}\n{container.logs()}")
    return report["ready_at"] - started, report["peak_bytes"]


def run(engine: Engine, base: str) -> Figures:
    """Build Bento and image, try the image, and remove it."""
    bento = build([BUNDLE], "cpu", base)
    image = f"localhost/offramp-trial:{bento.tag.version}"
    print(f"building an image of {bento.tag} on {base} with {engine}")
    started = time.perf_counter()
    engine.containerize(str(bento.tag), image)
    built = time.perf_counter() - started
    try:
        ready, memory = try_image(engine, image)
        sizes = (bento.total_size(), engine.image_bytes(image), engine.image_bytes(base))
        return Figures(*sizes, built, ready, memory)
    finally:
        engine.call("rmi", "--force", image)
        bentoml.bentos.delete(bento.tag)


def main() -> None:
    """Find an engine, try the image, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help="image to build on, with Python 3.11")
    parser.add_argument("--record", type=Path, help="page to write the figures into")
    arguments = parser.parse_args()
    try:
        engine = find_engine(arguments.base)
    except NoEngineError as error:
        print(
            f"SKIPPED, nothing was tested: no engine here builds an image on {arguments.base} and "
            f"runs it\n{error}\nwhere no registry is reached: container/base.sh, then BASE=…",
            file=sys.stderr,
        )
        sys.exit(SKIPPED)
    try:
        table = run(engine, arguments.base).lines(engine, arguments.base)
    except (AssertionError, NoEngineError) as error:
        sys.exit(f"FAILED: {error}")
    print(f"\n{table}")
    if arguments.record:
        page = arguments.record.read_text()
        arguments.record.write_text(FIGURES.sub(lambda _: table, page))


if __name__ == "__main__":
    main()
