from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from service.message_json import message_document

unsigned = st.integers(0, 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(unsigned, unsigned), max_size=3), unsigned)
def test_wide_integers_are_numbers_wherever_they_are(
    durations: list[tuple[int, int]], rows: int
) -> None:
    statistics = service_pb2.ModelStatistics(
        name="digits",
        inference_count=rows,
        batch_stats=[
            service_pb2.InferBatchStatistics(
                batch_size=size, compute_infer=service_pb2.StatisticDuration(count=size, ns=ns)
            )
            for size, ns in durations
        ],
    )
    document = message_document(statistics)
    assert document["inference_count"] == rows
    found = [(e["batch_size"], e["compute_infer"]["ns"]) for e in document["batch_stats"]]
    assert found == durations


@given(st.lists(signed, max_size=3), st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_lists_and_maps_are_kept(dims: list[int], parameters: dict[str, str]) -> None:
    config = model_config_pb2.ModelConfig(
        input=[model_config_pb2.ModelInput(name="x", dims=dims)],
        parameters={
            key: model_config_pb2.ModelParameter(string_value=value)
            for key, value in parameters.items()
        },
    )
    document = message_document(config)
    assert document["input"][0]["dims"] == dims
    found = {key: entry["string_value"] for key, entry in document["parameters"].items()}
    assert found == parameters


def test_fields_keep_their_names_and_are_there_when_empty() -> None:
    document = message_document(model_config_pb2.ModelConfig(max_batch_size=3))
    assert document["max_batch_size"] == 3
    assert document["name"] == ""
    assert document["input"] == []


@given(signed, st.floats(allow_nan=False), st.booleans())
def test_all_else_is_as_protobuf_writes_it(number: int, threshold: float, flag: bool) -> None:
    parameter = service_pb2.InferParameter(int64_param=number)
    assert message_document(parameter) == {"int64_param": number}
    for made in (
        service_pb2.InferParameter(double_param=threshold),
        service_pb2.InferParameter(bool_param=flag),
    ):
        plain: dict[str, Any] = MessageToDict(made, preserving_proto_field_name=True)
        assert message_document(made) == plain
