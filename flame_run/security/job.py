"""The runner's side of security: bundles that are good, or made for the job; warnings; what workers need to know.

Imports neither gRPC nor `cryptography` before TLS is asked for.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flame_run.errors import InvalidConfig, Problem
from flame_run.security.config import SecurityConf, SecurityKind, clear_text_warning
from flame_run.security.errors import BundleError
from flame_run.security.names import CONTROLLER
from flame_run.security.private import make_private_folder

if TYPE_CHECKING:
    from transports.grpc_channel.security import Security

Tls = Mapping[str, str | None]
"""Where the bundles of this machine lie: `bundles`, and `ca` and `crl` where they are not in the bundles; absolute paths."""
SOON = timedelta(days=1)
"""A certificate that ends within this, or within the job's `maxRunTime`, is warned of."""
_UNBOUNDED = timedelta(days=365)


class JobSecurity:
    """How one job is protected.

    Args:
        conf: the group `security`.
        workers: those that the runner starts.
        joining: those that start themselves.
        folder: where bundles are made if none are given; removed at the end.
        bind: address that the job listens on.
        max_run_time: longest time of the job, seconds; None: unbounded.

    Raises:
        InvalidConfig: bundles that cannot be used, each with its file and the reason.
    """

    def __init__(
        self,
        conf: SecurityConf,
        workers: Sequence[str],
        folder: Path,
        *,
        joining: Sequence[str] = (),
        bind: str,
        max_run_time: float | None = None,
    ) -> None:
        self._conf = conf
        self._workers, self._joining = tuple(workers), tuple(joining)
        self._folder = folder
        self._time = None if max_run_time is None else timedelta(seconds=max_run_time)
        self._own: Security | None = None
        self.warnings: list[str] = []
        """What a person should know before the start."""
        if conf.kind is SecurityKind.token:
            clear = clear_text_warning(conf, bind)
            self.warnings += [] if clear is None else [clear]
        elif conf.bundles is not None:
            problems = list(self._problems(Path(conf.bundles)))
            if problems:
                raise InvalidConfig(problems)

    def prepare(self, stack: ExitStack) -> "Security | None":
        """Make what is not there, until `stack` ends; returns the controller's own security, None without TLS."""
        if self.tls is None:
            return None
        from flame_run.security.ephemeral import make_bundles, remove_bundles  # noqa: PLC0415

        if self._conf.bundles is None:
            stack.callback(remove_bundles, self._folder)
            make_bundles(self._folder, (*self._workers, *self._joining), (self._time or _UNBOUNDED) + SOON)
        self._own = security_of(self.tls, CONTROLLER)
        stack.callback(self._own.close)
        return self._own

    def report(self) -> None:
        """Let everything be counted and logged that the controller has refused so far."""
        if self._own is not None:
            self._own.close()

    def hand_over(self, folder: Path) -> None:
        """Move what was made for workers that start themselves to `folder/NAME`, for people to take to them."""
        if self.tls is not None and self._conf.bundles is None:
            for name in self._joining:
                make_private_folder(folder / name)
                for file in (self._folder / name).iterdir():
                    shutil.move(file, folder / name / file.name)

    @property
    def tls(self) -> Tls | None:
        """What the workers of this machine need for `security_of`; None without TLS."""
        if self._conf.kind is not SecurityKind.tls:
            return None
        own, ca, crl = (_absolute(path) for path in (self._conf.bundles, self._conf.ca, self._conf.crl))
        return {"bundles": own or str(self._folder.absolute()), "ca": ca, "crl": crl}

    def _problems(self, folder: Path) -> Iterator[Problem]:
        """What is wrong with given bundles; notes those that end soon."""
        from flame_run.security.bundle import load_bundle  # noqa: PLC0415
        from flame_run.security.trust import period  # noqa: PLC0415

        now, ends = datetime.now(UTC), []
        ca, crl = _path(self._conf.ca), _path(self._conf.crl)
        for name in (CONTROLLER, *self._workers):
            place = f"security.bundles (bundle of {name})"
            try:
                bundle = load_bundle(folder / name, name, ca=ca, crl=crl)
            except BundleError as error:
                yield Problem(place, str(folder), str(error), "what `flame-run certs` makes")
                continue
            reason = bundle.why_not()
            if reason is not None:
                yield Problem(place, str(folder), reason, f"flame-run certs {folder} --renew {name}, or a new one of your own PKI")
            elif bundle.certificate.not_valid_after_utc < now + max(SOON, self._time or SOON):
                ends.append(f"{name} ({period(bundle.certificate)})")
        if ends:
            self.warnings.append(
                f"certificates that may end before the job, after which nobody connects with them: {', '.join(ends)}"
            )


def security_of(tls: Tls, name: str) -> "Security":
    """How the worker `name` of this machine speaks TLS, by what the runner said (`JobSecurity.tls`).

    Raises:
        BundleError: its bundle cannot be used, or is expired or revoked.
    """
    return _usable(Path(tls["bundles"] or "") / name, name, _path(tls["ca"]), _path(tls["crl"]))


def security_of_bundle(folder: Path, name: str) -> "Security | None":
    """How the worker `name` of a bundle speaks TLS; None for a bundle without certificates, of a job without TLS.

    Raises:
        BundleError: it holds part of what TLS needs, or what does not fit, or is expired or revoked.
    """
    if any((folder / file).exists() for file in ("cert.pem", "key.pem", "ca.pem")):
        return _usable(folder, name)
    return None


def _usable(folder: Path, name: str, ca: Path | None = None, crl: Path | None = None) -> "Security":
    from flame_run.security.tls import TlsSecurity  # noqa: PLC0415

    security = TlsSecurity(folder, name, ca=ca, crl=crl)
    # Others would refuse it without a word at the handshake.
    if (reason := security.bundle.why_not()) is not None:
        raise BundleError(f"{folder} is of no use: {reason}")
    return security


def _path(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
