"""`flame-run join`: be one worker of a job that runs elsewhere, with the data of this site."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from flame_run.control.errors import ControlError, SessionRefused
from flame_run.control.session import Session
from flame_run.errors import FlameRunError, Interrupted, JobFailed, Problem
from flame_run.join.adopt import adopt, objections, to_approve
from flame_run.join.approve import Approved
from flame_run.join.digest import digest_of
from flame_run.join.errors import JobRefused, JoinRefused
from flame_run.join.request import Request, read_request
from flame_run.join.site import SiteConf
from flame_run.run.checks import import_from
from flame_run.security.job import security_of_bundle
from transports.grpc_channel.forks import tolerate_forks

log = logging.getLogger(__name__)
INTERRUPTED = "interrupted at its site"


def join(arguments: Sequence[str]) -> int:
    """Join a job, take part until it ends, and return 0.

    Raises:
        InvalidConfig: the command line, the bundle or the site's configuration is wrong.
        JobRefused, JoinRefused: this site would not have the job, or the job not this worker.
        JobFailed: the worker or the job failed, or the controller could not be reached.
        Interrupted: Ctrl-C or SIGTERM.
    """
    tolerate_forks()
    request = read_request(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    _say(f"joining {request.bundle.card.job or 'a job'} at {request.address} as {request.worker}")
    with _interruptions() as interrupted:
        try:
            _take_part(request, interrupted)
        except KeyboardInterrupt:
            raise Interrupted(INTERRUPTED) from None
        except Exception as error:
            if interrupted():  # an import that is cut off fails in ways of its own
                raise Interrupted(INTERRUPTED) from error
            if isinstance(error, SessionRefused):
                raise JoinRefused(f"the controller refuses {request.worker}: {error}") from error
            raise
    return 0


def _take_part(request: Request, interrupted: Callable[[], bool]) -> None:
    session = _session(request)
    try:
        part = session.open(request.site.site.join_timeout)
        try:
            _say(f"admitted to job {part['job']['name']} ({part['job']['id']})")
            _say(f"digest of what {request.worker} is asked: {digest_of(part)}")
            _work(_accepted(part, request.site, session), session, interrupted)
        except KeyboardInterrupt:  # before there is a role to hear of it
            session.state("failed", error=INTERRUPTED)
            raise
    finally:
        with _quiet_after_abort(session):
            session.close()
    if session.aborted is not None:
        raise JobFailed(f"the job has ended: {session.aborted}")
    _say(f"{request.worker} has completed")


def _session(request: Request) -> Session:
    from flame_run.control.grpc_session import GrpcSession  # noqa: PLC0415 - gRPC after what can be refused without it

    security = security_of_bundle(request.bundle.folder, request.worker)
    return GrpcSession(request.address, request.bundle.token, request.worker, security=security)


def _accepted(part: Mapping[str, Any], site: SiteConf, session: Session) -> Mapping[str, Any]:
    """The part as this site carries it out; the controller hears why it does not."""
    try:
        try:
            _approve(part, site)
            own = adopt(part, site)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"not a plan that this version understands: {type(error).__name__}: {error}"
            raise JobRefused([Problem("the plan", part.get("version"), reason)]) from error
    except JobRefused as refusal:
        session.state("failed", error=refusal.for_the_job)
        raise
    except FlameRunError:
        session.state("failed", error="the configuration of its site does not fit the job")
        raise
    return own


def _approve(part: Mapping[str, Any], site: SiteConf) -> None:
    """Raise `JobRefused` unless this site runs what `part` asks for. Imports approved packages at most."""
    approved = Approved(list(site.approve.targets), defaults=site.approve.defaults)
    asked, digest = to_approve(part, site), digest_of(part)
    problems = [*objections(part, site), *approved.refusals(asked)]
    if site.approve.digest is not None and digest != site.approve.digest.lower():
        reason = "this site has approved another configuration"
        problems.append(Problem("digest", digest, reason, f"approve.digest={site.approve.digest}"))
    if not problems:
        from flame_run import torchvision_guard  # noqa: PLC0415 - imports torch, which a refusal does without

        torchvision_guard.install()
        import_from(site.python_path)
        problems = approved.strays(asked)
    if problems:
        raise JobRefused(problems)


def _work(part: Mapping[str, Any], session: Session, interrupted: Callable[[], bool]) -> None:
    from flame_run.run.worker import perform, quieten  # noqa: PLC0415 - imports torch
    from flame_run.run.workplace import OwnProcess  # noqa: PLC0415

    quieten()
    cut = (part["worker"]["dataset"] or {}).get("partition")
    if cut:
        share = f"part {cut['index'] + 1} of {cut['of']} ({cut['strategy']})"
        _say(f"uses {share} of its data, as the job says; dataset.whole=true uses all")
    perform(part, session, part["config"]["faults"]["join_timeout"], OwnProcess(), lambda error: _told(error, interrupted))


def _told(error: BaseException, interrupted: Callable[[], bool]) -> str:
    """What the job hears of an error: all of those of the protocol; of others the kind, since a text may speak of the data."""
    from roles.errors import RoundFailed, UnexpectedMessage  # noqa: PLC0415 - imports torch
    from transports.errors import TransportError  # noqa: PLC0415

    if interrupted() or isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, TransportError | RoundFailed | UnexpectedMessage | ControlError):
        return f"{name}: {error}"
    return f"{name} (its text stays in the log of its site)"


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Make SIGINT, SIGTERM and SIGHUP end what the main thread does; yields whether one has come.

    Lightning turns a KeyboardInterrupt of its own `fit` into an exit, so that the exception alone does not tell.
    """
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_after_abort(session: Session) -> Iterator[None]:
    """A controller that has told its workers to stop need not hear their goodbyes."""
    try:
        yield
    except ControlError:
        if session.aborted is None:
            raise


def _say(text: str) -> None:
    with suppress(OSError):  # a reader that has gone
        print(f"flame-run: {text}", flush=True)  # noqa: T201 - for the person at the site
