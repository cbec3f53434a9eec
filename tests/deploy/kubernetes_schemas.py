"""Checks resources by Kubernetes' own schemas, and by short ones of the kinds of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

Resource = dict[str, Any]

OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
"""Versions of Kubernetes; preStop.sleep is on by default since the oldest."""
CUSTOM = yaml.safe_load((Path(__file__).parent / "custom_resources.yaml").read_text())
OF_A_POD = (
    "containers",
    "volumes",
    "terminationGracePeriodSeconds",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
)


def check(resource: Resource, version: str = NEWEST) -> None:
    """Raise jsonschema.ValidationError where a server of this version would refuse a resource."""
    if resource["kind"] not in CUSTOM:
        kubernetes_validate.validate(resource, version, strict=True)
        return
    jsonschema.validate(resource, CUSTOM[resource["kind"]])
    for part in _parts(resource["spec"].get("predictor", resource["spec"])):
        kubernetes_validate.validate(part, version, strict=True)


def _parts(spec: Resource) -> list[Resource]:
    """Resources of Kubernetes' kinds that have in them what a custom one says as these do."""
    parts = []
    pod = {field: spec[field] for field in OF_A_POD if field in spec}
    if pod:
        # KServe takes the containers from the runtime where the service has none
        spec_of_pod = {"containers": [{"name": "kserve-container"}], **pod}
        parts.append({"apiVersion": "v1", "kind": "Pod", "spec": spec_of_pod})
    if "autoScaling" in spec:
        scaled = {"scaleTargetRef": {"kind": "Deployment", "name": "any"}, "maxReplicas": 1}
        behavior = {"behavior": spec["autoScaling"].get("behavior", {})}
        kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        parts.append({**kind, "spec": {**scaled, **behavior}})
    return parts
