"""The gateways' examples name what is there, and no client names itself through them.

Rule: no schema of these objects is at hand, so each is held to what the sidecar and the other objects say.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import yaml

from authix_sidecar.forward_auth import VERIFY
from authix_sidecar.identity import FIELD
from authix_sidecar.rewrite import identity
from tests.deploy.conftest import Rendered
from tests.deploy.dockerfiles import ROOT
from tests.deploy.manifests import K8S, Object, containers, named, of_kind

IDENTITY = {name.lower() for name, _ in identity(None)} | {FIELD.lower()}
"""What a client must not be able to set."""
LOOKALIKES = ("X-Authix-Subject", "x_authix_roles", "X.Authix.Session", "X-Authix", "X-Authix-Anything")


def assert_is_verify(objects: list[Object], host: str, port: int, path: str) -> None:
    """That there the sidecar's forward auth is."""
    name, namespace, *rest = host.split(".")
    assert rest == ["svc", "cluster", "local"]
    service = named(objects, "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert port in {one["port"] for one in service["spec"]["ports"]}
    assert path == VERIFY.decode()


def assert_is_service(objects: list[Object], name: str, port: str | int) -> None:
    ports = named(objects, "Service", name)["spec"]["ports"]
    assert port in {value for one in ports for value in (one["name"], one["port"])}


def test_ingress_nginx(rendered: Rendered) -> None:
    objects = rendered("examples/ingress-nginx")
    (ingress,) = of_kind(objects, "Ingress")
    said = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    asked = urlsplit(said["auth-url"])
    assert_is_verify(objects, asked.hostname or "", asked.port or 0, asked.path)
    assert {name.lower() for name in said["auth-response-headers"].split(",")} == IDENTITY
    assert set(said) == {"auth-url", "auth-response-headers"}  # no cache and no rewrite beside them
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            assert_is_service(objects, path["backend"]["service"]["name"], path["backend"]["service"]["port"]["name"])


def test_traefik(rendered: Rendered) -> None:
    objects = rendered("examples/traefik")
    (middleware,) = of_kind(objects, "Middleware")
    asked = urlsplit(middleware["spec"]["forwardAuth"]["address"])
    assert_is_verify(objects, asked.hostname or "", asked.port or 0, asked.path)
    pattern = middleware["spec"]["forwardAuth"]["authResponseHeadersRegex"]
    assert all(re.search(pattern, name) for name in (*IDENTITY, *LOOKALIKES))
    tried = yaml.safe_load((ROOT / "examples/forward-auth/traefik-routes.yaml").read_text(encoding="utf-8"))
    assert pattern == tried["http"]["middlewares"]["authix"]["forwardAuth"]["authResponseHeadersRegex"]
    (ingress,) = of_kind(objects, "IngressRoute")
    for route in ingress["spec"]["routes"]:
        assert route["middlewares"] == [{"name": middleware["metadata"]["name"]}]
        for service in route["services"]:
            assert_is_service(objects, service["name"], service["port"])


def test_envoy_gateway(rendered: Rendered) -> None:
    objects = rendered("examples/envoy-gateway")
    (route,), (policy,), (clients,) = (
        of_kind(objects, kind) for kind in ("HTTPRoute", "SecurityPolicy", "ClientTrafficPolicy")
    )
    asked = policy["spec"]["extAuth"]
    assert asked["failOpen"] is False
    assert asked["http"]["path"] == VERIFY.decode()
    (backend,) = asked["http"]["backendRefs"]
    assert backend["name"] == "authix-verify"
    assert_is_service(objects, backend["name"], backend["port"])
    assert set(asked["http"]["headersToBackend"]) == IDENTITY
    assert set(clients["spec"]["headers"]["earlyRequestHeaders"]["remove"]) == IDENTITY
    assert clients["spec"]["headers"]["withUnderscoresAction"] == "RejectRequest"
    assert [(ref["kind"], ref["name"]) for ref in policy["spec"]["targetRefs"]] == [("HTTPRoute", "echo")]
    assert route["metadata"]["name"] == "echo"
    gateways = [("Gateway", ref["name"]) for ref in route["spec"]["parentRefs"]]
    assert [(ref["kind"], ref["name"]) for ref in clients["spec"]["targetRefs"]] == gateways
    for rule in route["spec"]["rules"]:
        assert "filters" not in rule  # no rewrite: the service is sent what was judged
        for ref in rule["backendRefs"]:
            assert_is_service(objects, ref["name"], ref["port"])


def test_istio(rendered: Rendered, issuer_paths: frozenset[str]) -> None:
    objects = rendered("examples/istio")
    (authentication,), (authorization,) = (
        of_kind(objects, kind) for kind in ("RequestAuthentication", "AuthorizationPolicy")
    )
    mesh = yaml.safe_load((K8S / "examples/istio/mesh-config.yaml").read_text(encoding="utf-8"))
    (provider,) = mesh["extensionProviders"]
    asked = provider["envoyExtAuthzHttp"]
    assert_is_verify(objects, asked["service"], asked["port"], asked["pathPrefix"])
    assert asked["failOpen"] is False
    assert set(asked["headersToUpstreamOnAllow"]) == IDENTITY
    assert "authorization" in asked["includeRequestHeadersInCheck"]
    assert authorization["spec"]["action"] == "CUSTOM"
    assert authorization["spec"]["provider"]["name"] == provider["name"]
    (rule,) = authentication["spec"]["jwtRules"]
    (settings,) = [made["data"] for made in of_kind(objects, "ConfigMap")]
    assert rule["issuer"] == settings["AUTHIX_ISSUER"]
    assert rule["audiences"] == [settings["AUTHIX_AUDIENCE"]]
    assert rule["forwardOriginalToken"] is True
    keys = urlsplit(rule["jwksUri"])
    assert keys.path in issuer_paths
    assert_is_service(rendered("overlays/dev"), (keys.hostname or "").partition(".")[0], keys.port or 0)
    for policy in (authentication, authorization):
        assert policy["spec"]["selector"] == named(objects, "Deployment", "echo")["spec"]["selector"]


@pytest.mark.parametrize("name", ["echo", "ingress-nginx", "traefik", "envoy-gateway", "istio"])
def test_the_examples_fit_the_issuer_of_the_dev_overlay(name: str, rendered: Rendered) -> None:
    (issuer,) = of_kind(rendered("overlays/dev"), "ConfigMap")
    (sidecar,) = [
        made for made in of_kind(rendered(f"examples/{name}"), "ConfigMap") if "AUTHIX_ISSUER" in made["data"]
    ]
    for setting in ("AUTHIX_ISSUER", "AUTHIX_AUDIENCE"):
        assert sidecar["data"][setting] == issuer["data"][setting]
    broker = issuer["data"]["AUTHIX_KAFKA"]
    assert sidecar["data"]["AUTHIX_FEED"].startswith(f"kafka://{broker}/authix.logout,")
    (kafka,) = [one for one in containers(rendered("overlays/dev")) if one.spec["name"] == "kafka"]
    # what the broker calls itself must be found in other namespaces too
    assert kafka.environment()["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{broker}"
