"""Errors of certificates and keys.

FlameRunError
└── SecurityError        certificates or keys that cannot be used
    └── BundleError      the folder of one worker's certificate, key and CA; the text names the file and what to do
"""

from flame_run.errors import FlameRunError


class SecurityError(FlameRunError):
    """Certificates or keys that cannot be used."""

    exit_status = 2


class BundleError(SecurityError):
    """The folder of one worker's certificate, key and CA cannot be used; the text names the file and says what to do."""
