"""Lines of the log: keys and values that can be read again, and whose request they are about."""

from __future__ import annotations

import logging
import re

from service.call import Call, current_call

_LONGEST = 128  # of one value
_BARE = re.compile(r"[\w.:,/+-]+", re.ASCII)


class AboutRequest(logging.Filter):
    """Adds the request's id to what is logged while it is handled."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        call = current_call()
        if call is not None:
            record.msg = f"{record.msg}{call.tags}"
        return True


_ABOUT_REQUEST = AboutRequest()


def named_logger(name: str) -> logging.Logger:
    """The logger of this name; all who use it get a filter that says whose request it is."""
    logger = logging.getLogger(name)
    logger.addFilter(_ABOUT_REQUEST)  # one object, which a logger takes once
    return logger


def event_line(event: str, **values: object) -> str:
    """`event=… key=value …`, without the values that are empty.

    What is no bare word is a Python literal, and so without line breaks; what a client can make
    long is cut.
    """
    said = (f" {key}={_word(value)}" for key, value in values.items() if value not in ("", None))
    return f"event={event}{''.join(said)}"


def call_line(call: Call, status: int | str, reason: str, milliseconds: float) -> str:
    """What became of one request; `reason` of its error, empty without one."""
    return event_line(
        "request",
        **dict(tag.split("=") for tag in call.tags.split()),
        door=call.door,
        path=call.path,
        model=call.model,
        rows=call.rows or None,
        exits=call.exit_counts,
        status=status,
        reason=reason,
        ms=f"{milliseconds:.1f}",
    )


def _word(value: object) -> str:
    text = str(value)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 3]}..."
    return text if _BARE.fullmatch(text) else ascii(text)
