"""Forms with image files: the body of `curl -F image=@photo.jpg`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from models.errors import InvalidInput
from service.tensors import brief

IMAGES = ("image", "images")
"""Names of the parts that are files; their order is that of the rows."""
MAX_TEXTS = 32
MAX_TEXT_BYTES = 4096


async def read_form(
    headers: Headers, body: bytes, max_rows: int
) -> tuple[list[bytes], dict[str, str]]:
    """The files of a form, and its other fields.

    Parameters
    ----------
    headers : of the request; they name the boundary between the parts
    body : whole; what is in memory is not written to files

    Raises
    ------
    InvalidInput
        When it is no such form, is cut short, or has more parts than a request may hold.
    """
    try:
        form = await _Parser(headers, body, max_rows).parse()
    except MultiPartException:
        raise InvalidInput(
            "body: found no such form that can be read to its end, expected multipart/form-data "
            f"with its boundary, 1 to {max_rows} files, and options of at most {MAX_TEXT_BYTES} "
            "bytes"
        ) from None
    try:
        return await _sorted(form)
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Starlette's, over a whole body, which has to have its closing boundary."""

    def __init__(self, headers: Headers, body: bytes, max_rows: int) -> None:
        super().__init__(
            headers,
            self._whole(body),
            max_files=max_rows,
            max_fields=MAX_TEXTS,
            max_part_size=MAX_TEXT_BYTES,
        )
        self.spool_max_size = len(body) + 1
        self._complete = False

    def on_end(self) -> None:
        """The closing boundary was there."""
        self._complete = True

    async def _whole(self, body: bytes) -> AsyncGenerator[bytes, None]:
        yield body
        if not self._complete:  # told in here, the files of parts without an end are closed
            raise MultiPartException("cut short")


async def _sorted(form: FormData) -> tuple[list[bytes], dict[str, str]]:
    files: list[bytes] = []
    texts: dict[str, str] = {}
    for name, value in form.multi_items():
        if (name in IMAGES) is not isinstance(value, UploadFile):
            found, expected = ("a text", "a file") if name in IMAGES else ("a file", "a text")
            raise InvalidInput(
                f"{brief(name)}: found {found}, expected {expected}; files are sent as "
                "curl -F image=@photo.jpg"
            )
        if isinstance(value, UploadFile):
            files.append(await value.read())
        elif name in texts:
            raise InvalidInput(f"{brief(name)}: found twice, expected once")
        else:
            texts[name] = value
    if not files:
        raise InvalidInput(
            "image: found no file, expected at least one; send it as curl -F image=@photo.jpg"
        )
    return files, texts
