"""Typed options of the launchers that are ours: the config group `launcher`. No torch here."""

from dataclasses import dataclass, field

PRELOAD = ("flame_run.launch.preload",)
"""What the fork server imports by default."""
TURN_WARNING = 60.0
"""Seconds: a turn is one worker's fit or less, and the many small clients that share a process fit in a second or so."""


@dataclass(kw_only=True)
class LocalConf:
    """Options of `launcher=local`."""

    _target_: str = "flame_run.launch.local.LocalLauncher"
    preload: list[str] = field(default_factory=lambda: list(PRELOAD))
    """Modules that the fork server imports once, before it forks workers."""
    import_timeout: float = 300.0
    """Longest wait for these imports, seconds."""


@dataclass(kw_only=True)
class CohortConf:
    """Options of `launcher=cohort`."""

    _target_: str = "flame_run.launch.cohort.CohortLauncher"
    processes: int | None = None
    """How many processes share the data consumers; null: one for each core."""
    preload: list[str] = field(default_factory=lambda: list(PRELOAD))
    """Modules that the fork server imports once, before it forks workers."""
    import_timeout: float = 300.0
    """Longest wait for these imports, seconds."""
    turn_warning: float | None = TURN_WARNING
    """Seconds after which a worker is told of that keeps the others of its process waiting; doubles each time; null: never."""


@dataclass(kw_only=True)
class ExternalConf:
    """Options of `launcher=external`."""

    _target_: str = "flame_run.launch.external.ExternalLauncher"
    local: list[str] = field(default_factory=list)
    """Roles or workers that the runner starts by itself."""
    preload: list[str] = field(default_factory=lambda: list(PRELOAD))
    """Modules that the fork server imports once, before it forks workers."""
    import_timeout: float = 300.0
    """Longest wait for these imports, seconds."""


@dataclass(kw_only=True)
class DebugConf:
    """Options of `launcher=debug`."""

    _target_: str = "flame_run.launch.debug.DebugLauncher"
