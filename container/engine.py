"""A container engine that works here, found by really building and running an image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROBE = "localhost/offramp-probe"
RESTRICTED = (
    *("--network", "none", "--read-only", "--tmpfs", "/tmp"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
"""No network, nothing to write to but `/tmp`, no rights."""


class NoEngineError(Exception):
    """Nothing here builds and runs containers; says what was tried."""


@dataclass(frozen=True)
class Engine:
    """A command and the options that it needs on this machine.

    build : options of `build`, as `bentoml containerize --opt` takes them
    run : options of `run`
    """

    command: str
    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.command, *(f"--{one}" for one in self.build), *self.run])

    def call(self, *arguments: str, text: str | None = None, seconds: float = 120) -> str:
        """Run the command with `text` as its input, and return its output.

        Raises
        ------
        subprocess.CalledProcessError
            When it fails; what it said is in `stderr`.
        """
        command = [self.command, *arguments]
        return subprocess.run(
            command, input=text, check=True, capture_output=True, text=True, timeout=seconds
        ).stdout

    def containerize(self, bento: str, image: str) -> None:
        """`bentoml containerize`, from the base on.

        Raises
        ------
        NoEngineError
            When no image came of it; says what BentoML said.
        """
        options = [part for one in ("no-cache", *self.build) for part in ("--opt", one)]
        bentoml = str(Path(sys.executable).parent / "bentoml")
        command = [bentoml, "containerize", bento, "-t", image, "--backend", self.command, *options]
        result = subprocess.run(command, capture_output=True, text=True)
        try:
            self.call("image", "inspect", image)
        except subprocess.CalledProcessError:
            raise NoEngineError(f"{' '.join(command)}:\n{result.stdout}{result.stderr}") from None

    def image_bytes(self, image: str) -> int:
        """Size of an image with all its layers, unpacked."""
        return int(json.loads(self.call("image", "inspect", image))[0]["Size"])

    @contextmanager
    def running(self, image: str, name: str, *options: str) -> Iterator[Container]:
        """Start a restricted container; it is removed at the end of the block."""
        options = (*self.run, *RESTRICTED, *options)
        try:
            self.call("run", "--detach", "--name", name, *options, image)
            yield Container(self, name)
        finally:
            subprocess.run([self.command, "rm", "--force", name], capture_output=True)


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    engine: Engine
    name: str

    def python(self, source: str, text: str = "") -> str:
        """Run Python source in the container with `text` as its input; return its output.

        Raises
        ------
        AssertionError
            When it fails; says what source and server said.
        """
        command = ["exec", "--interactive", self.name, "python", "-c", source]
        try:
            return self.engine.call(*command, text=text)
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"in the container: {error.stderr}\n{self.logs()}") from None

    def wait(self, seconds: float) -> int:
        """Wait until the container has ended, and return its exit status."""
        return int(self.engine.call("wait", self.name, seconds=seconds))

    def logs(self) -> str:
        """What the server has said."""
        command = [self.engine.command, "logs", self.name]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.stdout + result.stderr


ENGINES = (
    Engine("docker"),
    Engine("podman"),
    # where the machine itself has few rights, as virtual machines of build services have
    Engine(
        "podman",
        ("isolation=chroot", "network=host"),
        ("--runtime", "runc", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=20000:20000"),
    ),
)


def find_engine(base: str, candidates: Sequence[Engine] = ENGINES) -> Engine:
    """The first engine that builds an image on `base` and runs it, restricted.

    Raises
    ------
    NoEngineError
        Names what was tried, and why it did not work.
    """
    failures = []
    for engine in candidates:
        if shutil.which(engine.command) is None:
            failure = "not installed"
        else:
            failure = _failure(engine, base)
            if not failure:
                return engine
        failures.append(f"  {engine}: {failure}")
    raise NoEngineError("\n".join(failures))


def _failure(engine: Engine, base: str) -> str:
    """Why a one-line image can not be built and run; empty when it can."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(f"FROM {base}\nRUN python3 --version\n")
        options = [f"--{one}" for one in engine.build]
        try:
            engine.call("build", *options, "--tag", PROBE, folder, seconds=600)
            engine.call("run", "--rm", *engine.run, *RESTRICTED, PROBE, "python3", "--version")
        except subprocess.TimeoutExpired as error:
            return f"no answer in {error.timeout:.0f} s"
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            return lines[-1] if lines else f"exit status {error.returncode}"
        finally:
            subprocess.run([engine.command, "rmi", "--force", PROBE], capture_output=True)
    return ""
