"""Typed options of the launchers that are ours: the config group `launcher`. No torch here."""

from dataclasses import dataclass, field

PRELOAD = ("flame_run.launch.preload",)
"""What the fork server imports by default."""


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


@dataclass(kw_only=True)
class DebugConf:
    """Options of `launcher=debug`."""

    _target_: str = "flame_run.launch.debug.DebugLauncher"
