"""A model's configuration, as Triton's message for it."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from service.dataplane import Dataplane
from service.oip_metadata import PLATFORM, TensorInfo, input_specs, output_specs
from service.tensors import BYTES


def model_config(plane: Dataplane) -> Any:
    """The `ModelConfig` of a loaded model; the rows are not among the dimensions."""
    return pb.ModelConfig(
        name=plane.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=plane.max_rows,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        input=[
            pb.ModelInput(
                name=spec.name,
                data_type=_data_type(spec),
                dims=spec.shape[1:],
                optional=spec.optional,
            )
            for spec in input_specs(plane.manifest)
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.shape[1:])
            for spec in output_specs(plane.manifest)
        ],
        # the names of the columns of `labels` and `probabilities`
        parameters={"labels": pb.ModelParameter(string_value=json.dumps(plane.manifest.labels))},
    )


def _data_type(spec: TensorInfo) -> int:
    word = "STRING" if spec.datatype == BYTES else spec.datatype
    return int(pb.DataType.Value(f"TYPE_{word}"))
