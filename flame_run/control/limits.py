"""Bounds on what the two sides of a session may say."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlLimits:
    """Beyond these a message is refused, counted and logged, and its session ends."""

    max_report_bytes: int = 4 * 2**20
    """Largest message from a worker, bytes."""
    max_order_bytes: int = 64 * 2**20
    """Largest message to a worker, bytes; the part of the plan is the large one."""
    max_metrics: int = 10_000
    """Values in one report."""
    max_name: int = 256
    """Characters of a metric's name, an address, a host."""
    max_error: int = 64 * 2**10
    """Characters of an error; a longer one is cut in the middle."""
