"""How to connect to Kafka, in the issuer and in every verifier alike.

Rule: TLS and a password are each all or nothing; a half is an error that names the other half.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
from typing import Any

from authix.settings import certificates, choice, flag, setting, shown, text

SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SERVER = r"(?:[^\s,:/@\[\]]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}"
SERVERS = re.compile(rf"{_SERVER}(?:,{_SERVER})*")


def kafka_servers(value: str) -> str:
    """Kafka's servers as aiokafka takes them."""
    ports = [int(server.rpartition(":")[2]) for server in value.split(",")] if SERVERS.fullmatch(value) else []
    if not ports or min(ports) < 1 or max(ports) > 65535:
        raise ValueError(f"must be host:port, or several with commas between, not {shown(value)}")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class KafkaSecurity:
    """The settings, and what aiokafka makes of them."""

    kafka_tls: bool = setting("AUTHIX_KAFKA_TLS", flag, "yes: connect to Kafka over TLS", default=False)
    kafka_ca: str = setting(
        "AUTHIX_KAFKA_CA", certificates, "the file of the certificates that Kafka's TLS is trusted by", default=""
    )
    kafka_sasl: str = setting(
        "AUTHIX_KAFKA_SASL", choice(*SASL_MECHANISMS), f"one of {', '.join(SASL_MECHANISMS)}", default=""
    )
    kafka_username: str = setting("AUTHIX_KAFKA_USERNAME", text, "the user name at Kafka", default="")
    kafka_password: str = setting("AUTHIX_KAFKA_PASSWORD", text, "the password at Kafka", default="", secret=True)

    def __post_init__(self) -> None:
        if self.kafka_sasl and not (self.kafka_username and self.kafka_password):
            raise ValueError("AUTHIX_KAFKA_SASL is set: set AUTHIX_KAFKA_USERNAME and AUTHIX_KAFKA_PASSWORD too")
        if not self.kafka_sasl and (self.kafka_username or self.kafka_password):
            raise ValueError("AUTHIX_KAFKA_USERNAME or AUTHIX_KAFKA_PASSWORD is set: set AUTHIX_KAFKA_SASL too")
        if self.kafka_ca and not self.kafka_tls:
            raise ValueError("AUTHIX_KAFKA_CA is set: set AUTHIX_KAFKA_TLS=yes too")

    def kafka_options(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients."""
        options: dict[str, Any] = {
            "security_protocol": ("SASL_" if self.kafka_sasl else "") + ("SSL" if self.kafka_tls else "PLAINTEXT")
        }
        if self.kafka_tls:
            options["ssl_context"] = ssl.create_default_context(cafile=self.kafka_ca or None)
        if self.kafka_sasl:
            options["sasl_mechanism"] = self.kafka_sasl
            options["sasl_plain_username"] = self.kafka_username
            options["sasl_plain_password"] = self.kafka_password
        return options
