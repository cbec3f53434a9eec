"""Loading models again while they are served: when asked to, and when their bundle has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from models.errors import OfframpError, Unavailable
from service.repository import By, Repository
from service.store import Files, digest_of, files_of


class Reloading:
    """What fails is in the log, and what was served before still is.

    Parameters
    ----------
    bundles : by the model's name, what `OFFRAMP_BUNDLE` names
    """

    def __init__(self, repository: Repository, bundles: Mapping[str, str]) -> None:
        self._repository = repository
        self._bundles = bundles
        self._seen: dict[str, Files] = {}
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have all models loaded again; asking once more before that begins changes nothing."""
        self._asked.set()

    async def when_asked(self) -> None:
        """Load all models again at every `ask`, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            for name in self._bundles:
                await self._load(name, "signal")

    async def watch(self, seconds: float) -> None:
        """Look at the bundles every so often, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.look()

    async def look(self) -> None:
        """Load what is served and whose bundle is another one than when it was last looked at.

        A bundle that is refused is not tried again before any of its files changes: one that is
        copied to its place file by file is refused until it is whole.
        """
        for name, bundle in self._bundles.items():
            try:
                served = self._repository.model(name).manifest.digest
            except Unavailable:  # unloaded by a client, who knows why
                continue
            files = await asyncio.to_thread(files_of, bundle)
            if files == self._seen.get(name):
                continue
            self._seen[name] = files
            if await asyncio.to_thread(digest_of, bundle) != served:
                await self._load(name, "watch")

    async def _load(self, name: str, by: By) -> None:
        with suppress(OfframpError):  # the repository has logged it
            await self._repository.load(name, by)
