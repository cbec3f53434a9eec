"""What is in deploy/kubernetes and deploy/kserve is taken by Kubernetes and fits together."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from prometheus_client import CollectorRegistry

from models.manifest import Manifest
from service.metric_families import MetricFamilies
from tests.conftest import ROOT
from tests.deploy.kubernetes_schemas import NEWEST, OLDEST, Resource, check
from tests.deploy.kustomize import documents
from tests.deploy.manifests import (
    ADAPTER,
    COMPONENTS,
    EXAMPLE,
    FULL,
    HTTP_PORT,
    KSERVE,
    KUBERNETES,
    ON_KSERVE,
    named,
    of,
    pod_of,
)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("resource", named([*EXAMPLE, *FULL, *ON_KSERVE]))
def test_kubernetes_takes_every_resource(resource: Resource, version: str) -> None:
    check(resource, version)


@pytest.mark.parametrize(
    ("kind", "way", "value"),
    [
        ("Deployment", "spec.template.spec.containers.0.readinessProbe.path", "/readyz"),
        ("Deployment", "spec.template.spec.securityContext.runAsUser", "bentoml"),
        ("Service", "spec.ports.0.port", None),
        ("NetworkPolicy", "spec.ingress.0.ports.0.ports", "http"),
        ("PodDisruptionBudget", "spec.maxUnavailabe", 1),
        ("HorizontalPodAutoscaler", "spec.metrics.0.pods.target.averageValue", ["25m"]),
        ("ServiceMonitor", "spec.endpoints.0.targetPort", "http"),
        ("ServingRuntime", "spec.containers.0.ports.0.containerPort", "3000"),
        ("ServingRuntime", "spec.protocolVersions.0", "v3"),
        ("InferenceService", "spec.predictor.storageUri", "pvc://bundles/digits"),
        ("InferenceService", "spec.predictor.securityContext.runAsRoot", False),
        ("InferenceService", "spec.predictor.autoScaling.behavior.scaleUp.window", 0),
    ],
)
def test_a_mistake_is_refused(kind: str, way: str, value: Any) -> None:
    resource = deepcopy(of(kind, [*FULL, *ON_KSERVE])[0])
    if kind == "InferenceService":
        resource = deepcopy(documents(KSERVE / "inference-service.yaml")[0])
    *steps, last = way.split(".")
    place: Any = resource
    for step in steps:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(resource)


def test_kustomizations_name_every_file() -> None:
    values_of_a_chart = {KUBERNETES / "autoscaling" / "prometheus-adapter.yaml"}
    for kustomization in KUBERNETES.glob("*/kustomization.yaml"):
        content, folder = documents(kustomization)[0], kustomization.parent
        listed = {folder / name for name in content.get("resources", [])}
        listed |= {folder / one["path"] for one in content.get("patches", []) if "path" in one}
        for generated in content.get("configMapGenerator", []):
            listed |= {folder / name for name in generated["files"]}
        files = {path for path in folder.iterdir() if path.is_file()}
        expected = files - {kustomization} - values_of_a_chart
        assert {path for path in listed if not path.is_dir()} == expected
    offered = (KUBERNETES / "example" / "kustomization.yaml").read_text()
    assert all(f"- ../{component.name}\n" in offered for component in COMPONENTS)


def test_selectors_find_the_pods() -> None:
    (deployment,) = of("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in of("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of("PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of("NetworkPolicy")]
    spread = pod_of(deployment)["topologySpreadConstraints"]
    selectors += [one["labelSelector"]["matchLabels"] for one in spread]
    assert len(selectors) == 7
    assert all(selector.items() <= labels for selector in selectors)
    (scaler,) = of("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # the autoscaler's to say
    assert pod_of(deployment)["serviceAccountName"] == of("ServiceAccount")[0]["metadata"]["name"]


def test_ports_are_called_by_the_names_that_they_have() -> None:
    names = {port["name"] for port in pod_of(of("Deployment")[0])["containers"][0]["ports"]}
    for service in of("Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    (policy,) = of("NetworkPolicy")
    clients, scraper = policy["spec"]["ingress"]
    assert {port["port"] for port in clients["ports"]} == names
    assert [port["port"] for port in scraper["ports"]] == ["http"]
    assert policy["spec"]["egress"] == []


def test_each_pod_is_scraped_once() -> None:
    (monitor,) = of("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [one for one in of("Service") if wanted <= one["metadata"]["labels"].items()]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'job="{job}"' in (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    (runtime,) = of("ServingRuntime", ON_KSERVE)
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(HTTP_PORT)


def test_autoscalers_ask_for_a_metric_of_the_service() -> None:
    gauges = {family.name for family in MetricFamilies(CollectorRegistry()).registry.collect()}
    (rule,) = ADAPTER["rules"]["custom"]
    (series,) = re.findall(r"^(\w+)\{", rule["seriesQuery"])
    assert series in gauges
    (metric,) = of("HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    (external,) = documents(KSERVE / "inference-service.yaml")[0]["spec"]["predictor"][
        "autoScaling"
    ]["metrics"]
    (asked,) = re.findall(r"(offramp_\w+)\{", external["external"]["metric"]["query"])
    assert asked in gauges


def test_the_runtime_takes_the_format_that_bundles_have() -> None:
    version = str(Manifest.model_fields["schema_version"].default)
    (runtime,) = of("ServingRuntime", ON_KSERVE)
    (taken,) = runtime["spec"]["supportedModelFormats"]
    model = documents(KSERVE / "inference-service.yaml")[0]["spec"]["predictor"]["model"]
    assert taken["version"] == version
    assert model["modelFormat"] == {"name": taken["name"], "version": version}
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
