"""The resources of deploy/kubernetes and deploy/kserve, and the pods that come of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from service.settings import Settings
from tests.conftest import ROOT
from tests.deploy.kubernetes_schemas import Resource
from tests.deploy.kustomize import documents, rendered

KUBERNETES, KSERVE = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "kserve"
COMPONENTS = [KUBERNETES / name for name in ("monitoring", "autoscaling", "gpu", "mtls")]
ADAPTER = documents(KUBERNETES / "autoscaling" / "prometheus-adapter.yaml")[0]
HTTP_PORT = 3000
"""BentoML's."""

EXAMPLE = rendered(KUBERNETES / "example")
FULL = rendered(KUBERNETES / "example", COMPONENTS)
ON_KSERVE = [one for path in sorted(KSERVE.glob("*.yaml")) for one in documents(path)]


def named(resources: list[Resource]) -> list[Any]:
    return [
        pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}-{number}")
        for number, one in enumerate(resources)
    ]


def of(kind: str, resources: list[Resource] = FULL) -> list[Resource]:
    return [one for one in resources if one["kind"] == kind]


def pod_of(resource: Resource) -> Resource:
    """What the pods of a resource say: a PodSpec, or as much of one as KServe's kinds have."""
    spec = resource["spec"]
    return spec["template"]["spec"] if "template" in spec else spec.get("predictor", spec)


def runtime_with_service() -> Resource:
    """KServe runs the runtime's containers with what the service says of its pods."""
    (runtime,) = of("ServingRuntime", ON_KSERVE)
    service = next(one for one in of("InferenceService", ON_KSERVE) if "model" in pod_of(one))
    return {**pod_of(service), **pod_of(runtime)}


PODS = [
    pytest.param(pod_of(of("Deployment", EXAMPLE)[0]), id="deployment"),
    pytest.param(pod_of(of("Deployment", FULL)[0]), id="gpu-mtls"),
    pytest.param(runtime_with_service(), id="kserve-runtime"),
    *(
        pytest.param(pod_of(one), id="kserve-image")
        for one in of("InferenceService", ON_KSERVE)
        if "containers" in pod_of(one)
    ),
]


def environment(container: Resource) -> dict[str, str]:
    """The variables as the container gets them."""
    values = {}
    for variable in container["env"]:
        value = variable.get("value")
        if value is None:
            field = variable["valueFrom"]["resourceFieldRef"]
            assert field["containerName"] == container["name"]
            kind, resource = field["resource"].split(".")
            value = str(math.ceil(float(container["resources"][kind][resource])))
        values[variable["name"]] = value
    return values


def settings(container: Resource, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    return Settings()
