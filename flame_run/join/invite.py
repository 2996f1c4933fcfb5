"""What the runner prepares for the workers that join by themselves: bundles in the run folder, and a line for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flame_run.join.bundle import Card, write_bundle
from flame_run.join.digest import digest_of
from flame_run.run.parts import Parts
from flame_run.topology.plan import Plan


def address_of_sites(address: str, advertise: str | None) -> str:
    """Where sites dial the controller that listens at `address` (`host:port`): the host of `advertise` instead, if that is set."""
    if advertise is None:
        return address
    host, colon, port = advertise.rpartition(":")
    plain = host if colon and port.isdecimal() and not host.endswith(":") else advertise
    return f"{plain}:{address.rpartition(':')[2]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitations:
    """Who is waited for, and where they find the job.

    Args:
        plan: the expanded job.
        parts: makes the workers' parts of it.
        names: the workers that join by themselves.
        address: `host:port` of the controller, as sites dial it.
        bundles: the folder for their bundles; None where the sites have the token already.
    """

    plan: Plan
    parts: Parts
    names: Sequence[str]
    address: str
    bundles: Path | None

    def write(self, token: str) -> None:
        """Write the bundle of each worker.

        Raises:
            OSError: one cannot be written.
        """
        for name in self.names if self.bundles is not None else ():
            card = Card(worker=name, role=self.plan.worker(name).role, job=self.plan.job_name, address=self.address)
            write_bundle(self.folder(name), card, token)

    def folder(self, name: str) -> Path:
        """Where the bundle of a worker lies, or stands for where its site keeps it."""
        return Path("DIR") if self.bundles is None else self.bundles / name

    def command(self, name: str) -> str:
        """The command that starts a worker at its site."""
        return f"flame-run join {self.address} --worker {name} --bundle {self.folder(name)}"

    def text(self) -> Iterator[str]:
        """Lines for a person: who is waited for, with which command each joins, and the digest that its site may approve."""
        yield f"waiting at {self.address} for {len(self.names)} workers that join by themselves:"
        for name in self.names:
            yield f"  {self.command(name)}"
        for role in dict.fromkeys(self.plan.worker(name).role for name in self.names):
            first = next(name for name in self.names if self.plan.worker(name).role == role)
            yield f"  digest of what role {role} is asked: {digest_of(self.parts(first))}"
