"""Dataset URLs: what is legal, and where the data of one lies. Needs no torch.

| URL | data |
| --- | --- |
| `builtin://mnist-mini` | a folder that ships with the package |
| `torchvision://MNIST` | a class of `torchvision.datasets`, through its own download, cached |
| `file://./digits.npz`, `file:///data/digits` | a path, relative to the working folder or absolute; `~` is the home folder |
| `https://host/digits.npz#sha256=HEX` | a file, cached; the checksum is optional |
| `http://host/digits.npz#sha256=HEX` | the same; the checksum is required |
"""

import ast
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache as remember
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flame_run.data.errors import DataError

BUILTIN = {"mnist-mini": Path(__file__).parent / "mnist_mini"}
"""Name of each shipped dataset and its folder."""
SCHEMES = ("builtin", "torchvision", "file", "https", "http")
CACHE_VARIABLE = "FLAME_RUN_CACHE"
"""Environment variable that names the folder of downloads and of unpacked data."""

_LEGAL_SCHEMES = "legal: builtin://NAME, torchvision://CLASS, file://PATH, https://HOST/FILE[#sha256=HEX]"
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DatasetUrl:
    """A dataset URL taken apart."""

    scheme: str
    rest: str
    """What follows `://`, without the fragment."""
    checksum: str | None
    """64 lower-case hex digits of SHA-256, from the fragment `#sha256=HEX`."""

    @property
    def address(self) -> str:
        """The URL without its fragment."""
        return f"{self.scheme}://{self.rest}"

    @property
    def path(self) -> Path:
        """The absolute path that a `file://` URL names."""
        return Path(unquote(self.rest)).expanduser().absolute()


def cache_folder() -> Path:
    """Return the folder of the cache: `$FLAME_RUN_CACHE`, else `$XDG_CACHE_HOME/flame-run`, else `~/.cache/flame-run`."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "flame-run"


def check_url(url: str) -> str | None:
    """Say why a dataset URL cannot be used, None if it looks usable. Opens no connection and reads no data.

    Checked: the scheme, the name of a built-in dataset or of a torchvision class, that a file exists, the form of a checksum.
    """
    try:
        _checked(url)
    except DataError as error:
        problem = error.problem
        return f"{problem.reason} ({problem.legal})" if problem.legal else problem.reason
    return None


def locate(url: str, *, cache: Path | None = None, checksum: str | None = None) -> Path:
    """Find the data of a URL on this machine, fetching it first where that is needed.

    Args:
        url: One of the forms in the table above.
        cache: Folder of downloads; default `cache_folder()`.
        checksum: SHA-256 of the file in hex, as an alternative to the fragment `#sha256=HEX`. For file, https and http only.

    Returns:
        A file or a folder that `load_arrays` reads. For `torchvision://NAME` it is the `root` of that class.

    Raises:
        DataError: The URL is not legal, the data is not there, cannot be fetched, or has another checksum.

    """
    parsed = _checked(url, checksum)
    if parsed.scheme == "builtin":
        return BUILTIN[parsed.rest]
    # What follows imports clients of the network, which the check of a plan does without.
    from flame_run.data import fetch  # noqa: PLC0415

    if parsed.scheme == "file":
        fetch.verify(parsed.path, parsed.checksum)
        return parsed.path
    folder = cache or cache_folder()
    if parsed.scheme == "torchvision":
        return fetch.torchvision_dataset(parsed.rest, folder)
    return fetch.download(parsed.address, folder, parsed.checksum)


def _checked(url: str, checksum: str | None = None) -> DatasetUrl:
    """Take a URL apart and check it; raises DataError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        near = get_close_matches(scheme, SCHEMES, n=1) if separator else []
        hint = f"; did you mean {near[0]}://?" if near else ""
        raise DataError("url", url, f"not a dataset URL{hint}", _LEGAL_SCHEMES)
    rest, fragment = _split_fragment(url, scheme, rest)
    if fragment and checksum and fragment != checksum.lower():
        raise DataError("checksum", checksum, f"the URL names another one, {fragment}")
    parsed = DatasetUrl(scheme, rest, _checked_checksum(url, fragment or checksum))
    {"builtin": _check_builtin, "torchvision": _check_torchvision, "file": _check_file}.get(scheme, _check_web)(url, parsed)
    return parsed


def _split_fragment(url: str, scheme: str, rest: str) -> tuple[str, str | None]:
    """Split off `#sha256=HEX`; elsewhere `#` is a legal character of a file name."""
    body, mark, fragment = rest.rpartition("#")
    if mark and fragment.startswith("sha256="):
        return body, fragment.removeprefix("sha256=").lower()
    if mark and scheme != "file":
        raise DataError("url", url, f"{fragment!r} is not a checksum", "legal after #: sha256= and 64 hex digits")
    return rest, None


def _checked_checksum(url: str, checksum: str | None) -> str | None:
    if checksum is None or _CHECKSUM.fullmatch(checksum.lower()):
        return checksum and checksum.lower()
    raise DataError("url", url, f"{checksum!r} is not a SHA-256 checksum", "legal: 64 hex digits")


def _check_builtin(url: str, parsed: DatasetUrl) -> None:
    _check_no_checksum(url, parsed)
    if parsed.rest not in BUILTIN:
        raise DataError("url", url, f"no built-in dataset is named {parsed.rest!r}", _legal(parsed.rest, tuple(BUILTIN)))


def _check_torchvision(url: str, parsed: DatasetUrl) -> None:
    _check_no_checksum(url, parsed)
    names = _torchvision_names()
    if parsed.rest not in names:
        raise DataError("url", url, f"torchvision.datasets has no class {parsed.rest!r}", _legal(parsed.rest, names))


def _check_no_checksum(url: str, parsed: DatasetUrl) -> None:
    if parsed.checksum:
        raise DataError("url", url, f"{parsed.scheme}:// takes no checksum: its files have their own")


def _check_file(url: str, parsed: DatasetUrl) -> None:
    if not parsed.path.exists():
        raise DataError("url", url, f"there is no file or folder {parsed.path}")
    if parsed.checksum and parsed.path.is_dir():
        raise DataError("url", url, f"{parsed.path} is a folder, and a checksum is that of one file")


def _check_web(url: str, parsed: DatasetUrl) -> None:
    if not urlsplit(parsed.address).hostname:
        raise DataError("url", url, "it names no host", "legal: https://HOST/FILE[#sha256=HEX]")
    if parsed.scheme == "http" and not parsed.checksum:
        raise DataError(
            "url", url, "http:// gives no integrity: anyone on the way can change the data", "legal: https://, or add #sha256=HEX"
        )


def _legal(name: str, names: tuple[str, ...]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"legal: {', '.join(names)}" + (f"; did you mean {near[0]!r}?" if near else "")


@remember
def _torchvision_names() -> tuple[str, ...]:
    """Read the names that `torchvision.datasets` exports from its source: importing it takes a second and torch."""
    spec = find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    try:
        tree = ast.parse((folder / "datasets" / "__init__.py").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("url", "torchvision://", "torchvision is not installed") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(sorted(ast.literal_eval(node.value)))
    return ()
