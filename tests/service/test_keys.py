from __future__ import annotations

import logging
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingsError
from service.keys import LEAST_CHARACTERS, LOOK_SECONDS, Keys

OLD = "old-key-of-the-test"
NEW = "new-key-of-the-test"
VISIBLE = string.ascii_letters + string.digits + string.punctuation
KEYS = st.text(VISIBLE, min_size=LEAST_CHARACTERS, max_size=80).filter(lambda k: k[0] != "#")


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "keys", OLD)


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def rotated(path: Path, *lines: str) -> None:
    """As tools do it: a new file takes the place of the old one."""
    os.replace(written(path.with_suffix(".new"), *lines), path)


@given(keys=st.lists(KEYS, min_size=1, max_size=5), presented=KEYS | st.text())
def test_exactly_the_keys_of_the_file_are_allowed(
    keys: list[str], presented: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("keys") / "keys", *keys)
    book = Keys(path, "OFFRAMP_KEYS_FILE")
    assert all(book.allows(key) for key in keys)
    assert book.allows(presented) == (presented in keys)


def test_comments_blank_lines_and_spaces_around_keys_do_not_count(path: Path) -> None:
    written(path, "# of the tests, 2026", "", f"  {OLD}\t", "   ", f"#{NEW}")
    keys = Keys(path, "OFFRAMP_KEYS_FILE")
    assert keys.allows(OLD)
    for other in ("", "# of the tests, 2026", f"  {OLD}\t", NEW, f"#{NEW}", OLD.upper(), OLD[:-1]):
        assert not keys.allows(other)


def test_a_file_with_a_byte_order_mark_is_read(path: Path) -> None:
    path.write_text(OLD, "utf-8-sig")
    assert Keys(path, "OFFRAMP_KEYS_FILE").allows(OLD)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds no key"),
        (b"\n# nothing but words of explanation\n", "holds no key"),
        (f"{OLD}\nsecret-of-15-ch\n".encode(), "a key of 15 characters in line 2"),
        (f"{OLD}\n\nsecret of many words\n".encode(), "a key in line 3 that no header can carry"),
        ("sécret-of-many-characters".encode(), "a key in line 1 that no header can carry"),
        (b"secret-\xff-of-many-bytes", "is no UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_telling_keys(
    path: Path, content: bytes, found: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=found) as refusal:
        Keys(path, "OFFRAMP_KEYS_FILE")
    assert str(refusal.value).startswith(f"OFFRAMP_KEYS_FILE: {path} ")
    assert "cret" not in str(refusal.value)
    assert OLD not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    path.unlink()
    with pytest.raises(SettingsError, match=r"cannot be read \(No such file or directory\)"):
        Keys(path, "OFFRAMP_KEYS_FILE")


def test_a_changed_file_counts_within_a_second(path: Path, clock: Clock) -> None:
    keys = Keys(path, "OFFRAMP_KEYS_FILE", clock)
    rotated(path, OLD, NEW)
    clock.seconds += LOOK_SECONDS
    assert keys.allows(OLD)
    assert keys.allows(NEW)
    rotated(path, NEW)
    clock.seconds += LOOK_SECONDS
    assert not keys.allows(OLD)
    assert keys.allows(NEW)


def test_a_key_written_over_another_of_its_length_counts(path: Path, clock: Clock) -> None:
    keys = Keys(path, "OFFRAMP_KEYS_FILE", clock)
    written(path, NEW)
    os.utime(path, ns=(1, 1))  # whatever the file system's clock says
    clock.seconds += LOOK_SECONDS
    assert keys.allows(NEW)
    assert not keys.allows(OLD)


def test_the_file_is_looked_at_once_a_second_at_most(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(path, "OFFRAMP_KEYS_FILE", clock)
    looks = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self: looks.append(self) or stat(self))
    for _ in range(30):
        clock.seconds += LOOK_SECONDS / 10
        keys.allows(OLD)
    assert 2 <= len(looks) <= 3


@pytest.mark.parametrize("content", [None, b"", b"too-short", b"\xff\xfe"])
def test_a_file_that_turns_bad_keeps_the_keys_and_is_told_once(
    path: Path, clock: Clock, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(path, "OFFRAMP_KEYS_FILE", clock)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for _ in range(3):
        clock.seconds += LOOK_SECONDS
        assert keys.allows(OLD)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["event=keys_not_read"]
    rotated(path, NEW)
    clock.seconds += LOOK_SECONDS
    assert keys.allows(NEW)
    assert not keys.allows(OLD)


def test_no_key_is_logged(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = Keys(path, "OFFRAMP_KEYS_FILE", clock)
    for content in (NEW, "short-key", f"{NEW} {OLD}", OLD):
        rotated(path, content)
        clock.seconds += LOOK_SECONDS
        keys.allows("presented-by-somebody")
    assert caplog.text.count("event=keys_not_read") == 2
    assert caplog.text.count("event=keys_read") == 2
    for secret in (OLD, NEW, "short-key", "presented-by-somebody"):
        assert secret not in caplog.text
