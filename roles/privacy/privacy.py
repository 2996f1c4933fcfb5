"""The contract of a privacy preset, and the one that does nothing."""

from roles.part import Part


class Privacy(Part):
    """Changes updates before they are handed up (`Client.finish`), their mean at the root (`closed`), or both."""


class Open(Privacy):
    """Updates travel as they are."""
