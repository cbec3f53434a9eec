"""The pods of deploy/kubernetes and deploy/kserve agree with the service that runs in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from service.http_locks import HEALTH
from service.settings import Settings
from service.stopping import CLOSE_SECONDS, GRACE_SECONDS
from tests.conftest import ROOT
from tests.deploy.kubernetes_schemas import Resource
from tests.deploy.manifests import HTTP_PORT, PODS, environment, settings

MIB = {"Mi": 1, "Gi": 1024}


@pytest.mark.parametrize("pod", PODS)
def test_ports_are_those_that_the_service_opens(
    pod: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": HTTP_PORT, "grpc": settings(container, monkeypatch).grpc_port}
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    bound = {one["name"]: one["value"] for one in bento["envs"]}
    assert (bound["BENTOML_HOST"], bound["OFFRAMP_GRPC_HOST"]) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize("pod", PODS)
def test_probes_ask_what_needs_no_key(pod: Resource) -> None:
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "exec" in container[probe]:
            assert container[probe]["exec"]["command"][-1] in HEALTH
            continue
        asked = container[probe]["httpGet"]
        assert asked["path"] in HEALTH
        assert ports.get(asked["port"], asked["port"]) == ports["http"]


@pytest.mark.parametrize("pod", PODS)
def test_every_variable_is_a_setting_with_a_value_that_is_taken(
    pod: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pod["containers"]
    given = {name for name in environment(container) if name.startswith("OFFRAMP_")}
    assert given <= {f"OFFRAMP_{field.upper()}" for field in Settings.model_fields}
    taken = settings(container, monkeypatch)
    assert taken.lanes != "auto"
    assert taken.threads == 1
    # a service called offramp-grpc would set OFFRAMP_GRPC_PORT
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", PODS)
def test_an_answer_has_the_time_to_come_when_a_pod_ends(
    pod: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    closing = 3 * CLOSE_SECONDS
    assert pause + GRACE_SECONDS + closing < pod["terminationGracePeriodSeconds"]
    assert settings(container, monkeypatch).max_wait_ms < 1000 * GRACE_SECONDS


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_may_do_nothing_that_it_need_not(pod: Resource) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("pod", PODS)
def test_paths_of_the_settings_are_mounted(pod: Resource, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {Path(one["mountPath"]): volumes[one["name"]] for one in container["volumeMounts"]}
    taken = settings(container, monkeypatch)
    assert taken.monitor_state is not None
    assert "emptyDir" in mounts[taken.monitor_state]
    assert "emptyDir" in mounts[Path("/tmp")]
    files = (taken.keys_file, taken.tls_certificate, taken.tls_key, taken.tls_client_ca)
    for path in filter(None, files):
        assert "secret" in mounts[path.parent], path


@pytest.mark.parametrize("pod", PODS)
def test_bodies_leave_half_of_the_memory(pod: Resource, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod["containers"]
    taken = settings(container, monkeypatch)
    bodies = 2 * taken.max_parallel * taken.max_body_bytes / 2**20
    limit = container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"]["memory"] == limit
    assert bodies <= int(limit[:-2]) * MIB[limit[-2:]] / 2
