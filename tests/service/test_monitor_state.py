from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.monitor_state import MonitorState


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    state = MonitorState(tmp_path / "new" / "folder", "0123456789ab")
    assert state.read() is None
    for value in (1, 2):
        state.write({"rows": value})
        assert state.read() == {"schema": 1, "rows": value}
    assert [path.name for path in state.path.parent.iterdir()] == ["0123456789ab.json"]


def test_versions_do_not_share_their_states(tmp_path: Path) -> None:
    MonitorState(tmp_path, "a").write({"rows": 1})
    assert MonitorState(tmp_path, "b").read() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 2}', b"\xff\xfe"])
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    state = MonitorState(tmp_path, "a")
    state.path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 (of JSON, of UTF-8, or ours)
        state.read()


@pytest.fixture
def little_space() -> Iterator[None]:
    """No file may be longer than a kilobyte."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_without_space_the_old_state_stays_and_nothing_else(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    state = MonitorState(tmp_path, "a")
    state.write({"rows": 1})
    request.getfixturevalue("little_space")
    with pytest.raises(OSError, match="too large"):
        state.write({"rows": 2, "padding": "x" * 4096})
    assert state.read() == {"schema": 1, "rows": 1}
    assert len(list(tmp_path.iterdir())) == 1
