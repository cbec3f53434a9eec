"""Inference requests of the Open Inference Protocol, good ones with something wrong in them."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.oip_json import HEADER_LENGTH
from service.tensors import DATATYPES
from tests.fuzz.rounds import Repeat, any_request
from tests.fuzz.target import Target
from tests.small_bundles import WIDTH, small_image

pytestmark = pytest.mark.slow

Document = dict[str, Any]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
sizes = st.sampled_from([-1, 0, 1, 2, 3, 6, 7, 2**31, 2**63, 10**30]) | json_values
datatypes = st.sampled_from([*DATATYPES, "BF16", "fp32", ""]) | json_values
lengths = st.sampled_from(["", "-1", "0", "1", "7", "1e3", "٣", "0x10", "9" * 30])
right = st.just(0)
mostly_right = st.one_of(right, right, right, right, lengths | st.integers(-3, 3))
"""Of the document, as the header says it: itself, or by how much it is wrong."""


def good_request(kind: str) -> tuple[Document, bytes]:
    """A document and the raw bytes behind it."""
    if kind == "numbers":
        raw = np.ones((2, WIDTH), np.float32).tobytes()
        tensor: Document = {"name": "x", "datatype": "FP32", "shape": [2, WIDTH]}
    else:
        rows = [small_image()] * 2 if kind == "image" else [b"w1 w2", b"w3"]
        raw = b"".join(len(row).to_bytes(4, "little") + row for row in rows)
        tensor = {"name": kind, "datatype": "BYTES", "shape": [2]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    return {"inputs": [tensor], "outputs": [{"name": "score"}], "parameters": {}}, raw


@st.composite
def documents(draw: st.DrawFn, kind: str) -> tuple[Document, bytes]:
    """The good request, with up to three of its parts changed."""
    document, raw = good_request(kind)
    tensor = document["inputs"][0]
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(["tensor", "document", "parameter", "twice", "data", "raw"]))
        if change == "tensor":
            field = draw(st.sampled_from(["name", "shape", "datatype", "parameters", "data"]))
            values = {
                "shape": st.lists(sizes, max_size=9) | json_values,
                "datatype": datatypes,
                "parameters": st.dictionaries(
                    st.sampled_from(["binary_data_size", "shared_memory_region", "classification"]),
                    sizes,
                ),
            }
            tensor[field] = draw(values.get(field, json_values))
        elif change == "document":
            field = draw(st.sampled_from(["id", "inputs", "outputs", "parameters", "other"]))
            document[field] = draw(json_values)
        elif change == "parameter" and isinstance(document["parameters"], dict):
            name = draw(st.sampled_from(["policy", "max_exit", "priority", "binary_data_output"]))
            document["parameters"][name] = draw(json_values)
        elif change == "twice" and isinstance(document["inputs"], list):
            document["inputs"].append(draw(st.sampled_from([dict(tensor), {"name": "input_ids"}])))
        elif change == "data":
            tensor["data"] = draw(st.lists(json_values, max_size=13))
            tensor.pop("parameters", None)
        elif change == "raw":
            raw = draw(st.binary(max_size=20) | st.just(raw[:-1]) | st.just(raw + b"\x00"))
    return document, raw


def test_changed_documents(target: Target, repeat: Repeat) -> None:
    @any_request
    @given(documents(target.kind), mostly_right)
    def round_(request: tuple[Document, bytes], length: int | str) -> None:
        document, raw = request
        head = json.dumps(document).encode()
        said = str(len(head) + length) if isinstance(length, int) else length
        headers = {HEADER_LENGTH: said.encode()}
        target.fire(f"/v2/models/{target.model}/infer", head + raw, headers)

    repeat(round_)


def test_changed_bytes(target: Target, repeat: Repeat) -> None:
    document, raw = good_request(target.kind)
    head = json.dumps(document).encode()
    whole = head + raw
    edits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)

    @any_request
    @given(edits, st.just(len(whole)) | st.integers(0, len(whole)), st.just(b"") | st.binary())
    def round_(edited: list[tuple[int, int]], cut: int, added: bytes) -> None:
        body = bytearray(whole)
        for place, value in edited:
            body[place] = value
        headers = {HEADER_LENGTH: str(len(head))}
        target.fire(f"/v2/models/{target.model}/infer", bytes(body[:cut]) + added, headers)

    repeat(round_)


def test_changed_elements_of_bytes(targets: dict[str, Target], repeat: Repeat) -> None:
    """Lengths that lead anywhere, and images and texts that are none."""
    kinds = [kind for kind in targets if kind != "numbers"]
    lengths_of_elements = st.integers(0, 2**32 - 1) | st.integers(0, 12)

    @any_request
    @given(st.sampled_from(kinds), st.lists(st.tuples(lengths_of_elements, st.binary(max_size=12))))
    def round_(kind: str, elements: list[tuple[int, bytes]]) -> None:
        raw = b"".join(length.to_bytes(4, "little") + content for length, content in elements)
        document, _ = good_request(kind)
        document["inputs"][0] |= {
            "shape": [len(elements)],
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps(document).encode()
        headers = {HEADER_LENGTH: str(len(head))}
        targets[kind].fire(f"/v2/models/small-{kind}/infer", head + raw, headers)

    repeat(round_)


encodings = st.sampled_from(["gzip", "deflate", "br", "gzip, gzip", "identity", "x"])


def test_compressed_bodies(target: Target, repeat: Repeat) -> None:
    """Bombs, streams that are cut short or go on, and names that do not fit."""
    document, raw = good_request(target.kind)
    head = json.dumps(document).encode()
    bodies = st.sampled_from([head + raw, b"{", b" " * 2**24, b"[" * 10_000])

    @any_request
    @given(
        bodies,
        st.sampled_from([gzip.compress, zlib.compress, bytes]),
        encodings,
        st.integers(-20, 0),
        st.binary(max_size=6),
        st.sampled_from([f"/v2/models/{target.model}/infer", "/predict"]),
    )
    def round_(
        body: bytes, compress: Any, encoding: str, cut: int, added: bytes, path: str
    ) -> None:
        packed = compress(body)
        packed = packed[: len(packed) + cut] + added
        target.fire(path, packed, {"content-encoding": encoding, HEADER_LENGTH: str(len(head))})

    repeat(round_)


@pytest.mark.parametrize("bracket", [b"[", b'{"inputs":', b'{"inputs":[{"data":['])
@pytest.mark.parametrize("path", ["/predict", "/v2/models/{}/infer", "/v2/repository/index"])
def test_nested_brackets(target: Target, bracket: bytes, path: str) -> None:
    assert 400 <= target.fire(path.format(target.model), bracket * 10_000) < 500
