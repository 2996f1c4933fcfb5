"""Names that certificates and the wire share; light, so that everybody can import them."""

CONTROLLER = "controller"
"""Role and name of the runner itself. No worker has this name: theirs end in a number."""


def role_of(name: str) -> str:
    """Role of the worker `name` (`ROLE-INDEX`), or of the controller."""
    return CONTROLLER if name == CONTROLLER else name.rpartition("-")[0]
