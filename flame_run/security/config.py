"""The group `security`: who may speak to whom, typed for Hydra, free of heavy imports."""

import ipaddress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flame_run.errors import Problem


class SecurityKind(Enum):
    """How workers prove who they are."""

    token = "token"  # noqa: S105 - the name of a way
    tls = "tls"


@dataclass
class SecurityConf:
    """Group `security`."""

    kind: SecurityKind = SecurityKind.token
    """`token`: a random token per job; `tls`: a certificate for each worker as well, and all connections encrypted."""
    bundles: str | None = None
    """Folder with a bundle for the controller and for each worker; null: made for the job, and gone after it."""
    ca: str | None = None
    """CA certificates (PEM) instead of `ca.pem` in each bundle."""
    token_file: str | None = None
    """File of mode 0600 with the token, for sites that have it beforehand; null: the `token` of `bundles`, else a random one."""
    crl: str | None = None
    """Revocation lists (PEM) instead of `crl.pem` in each bundle; read again whenever the file changes."""


def check_security(conf: SecurityConf) -> list[Problem]:
    """What is wrong with `conf` by itself; whether its files are good is for whoever uses them."""
    if conf.kind is SecurityKind.token:
        return [
            Problem(f"security.{key}", value, "belongs to security=tls", "null, or security=tls")
            for key, value in (("bundles", conf.bundles), ("ca", conf.ca), ("crl", conf.crl))
            if value is not None
        ]
    return [
        Problem(f"security.{key}", value, "belongs to bundles of your own", "null, or security.bundles=DIR")
        for key, value in (("ca", conf.ca), ("crl", conf.crl))
        if value is not None and conf.bundles is None
    ]


def token_file(conf: SecurityConf) -> Path | None:
    """Where the job token is kept; None: it is made for this job."""
    if conf.token_file is not None:
        return Path(conf.token_file)
    beside = None if conf.bundles is None else Path(conf.bundles) / "token"
    return beside if beside is not None and beside.exists() else None


def clear_text_warning(conf: SecurityConf, bind: str) -> str | None:
    """What to say of workers that listen beyond this machine without TLS; None where there is nothing to say."""
    if conf.kind is SecurityKind.tls or is_loopback_host(bind):
        return None
    return (
        f"transport.bind={bind} opens the job to the network, and without TLS its token and its models travel in clear text: "
        "whoever reads them there can join. security=tls encrypts them"
    )


def is_loopback_host(host: str) -> bool:
    """Whether a name or an address stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
