"""Ctrl-C at a site, whatever it cuts off."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from flame_run.errors import Interrupted
from flame_run.join import join as joining


@pytest.mark.parametrize("error", [None, ImportError("cannot load module more than once per process"), SystemError("no result")])
def test_an_interruption_is_told_as_one_whatever_becomes_of_it(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_part(request: object, interrupted: Callable[[], bool]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            if error is None:
                raise
            raise error from None

    bundle = SimpleNamespace(card=SimpleNamespace(job="digits"))
    monkeypatch.setattr(joining, "read_request", lambda _: SimpleNamespace(bundle=bundle, address="here", worker="trainer-0"))
    monkeypatch.setattr(joining, "_take_part", take_part)
    for name in ("tolerate_forks", "logging"):  # of the process: other tests run in it, too
        monkeypatch.setattr(joining, name, Mock())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="interrupted at its site"):
        joining.join([])
    assert signal.getsignal(signal.SIGINT) is before
