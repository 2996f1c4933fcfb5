"""Places in documents, as messages print them: `schema.channels[1].pair[0] (channel param-channel)`."""

from collections.abc import Mapping, Sequence

Path = Sequence[str | int]
KINDS = {"roles": ("role", "name"), "channels": ("channel", "name"), "datasets": ("dataset", "name"), "dataSpec": ("role", "role")}
"""Lists of named things -> what one of them is, and the key that names it."""


def place(document: str, *path: str | int, of: str = "") -> str:
    """Print a path into a document; `of` says whose place it is, such as `role trainer`."""
    text = document + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{text} ({of})" if of else text


def owner(content: object, path: Path) -> str:
    """Whose place `path` is: `role trainer`, `channel param-channel`, `dataset mnist-uk`, or nothing."""
    if not isinstance(content, Mapping) or len(path) <= 1:
        return ""
    kind, key = KINDS.get(str(path[0]), ("", ""))
    entries, at = content.get(path[0]), path[1]
    if not kind or not isinstance(entries, list) or not isinstance(at, int) or not isinstance(entries[at], Mapping):
        return ""
    name = entries[at].get(key)
    return f"{kind} {name}" if isinstance(name, str) and name else ""
