"""Dataset URLs: which are legal, and where their data is found."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flame_run import torchvision_guard
from flame_run.data import fetch
from flame_run.data.errors import DataError
from flame_run.data.urls import BUILTIN, cache_folder, check_url, locate

CONTENT = b"x,y\n1,0\n2,1\n"
CHECKSUM = sha256(CONTENT).hexdigest()
WRONG = "0" * 64


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address of a server that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_builtin_dataset_is_a_folder_of_the_package() -> None:
    path = locate("builtin://mnist-mini")
    assert path == BUILTIN["mnist-mini"]
    origin = (path / "ORIGIN.md").read_text(encoding="utf-8")
    files = sorted(path.glob("*.gz"))
    assert len(files) == 4
    assert all(sha256(file.read_bytes()).hexdigest() in origin for file in files)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mnist", "not a dataset URL"),
        ("", "not a dataset URL"),
        ("fiel://x", r"did you mean file://\?"),
        ("s3://bucket/x", "legal: builtin://NAME"),
        ("builtin://mnist", r"no built-in dataset is named 'mnist' \(legal: mnist-mini; did you mean 'mnist-mini'\?"),
        ("torchvision://MINST", r"has no class 'MINST'.*did you mean 'MNIST'\?"),
        ("torchvision://MNIST#sha256=" + WRONG, "takes no checksum"),
        ("file://./missing.csv", "there is no file or folder"),
        ("https:///x.npz", "names no host"),
        ("https://example.org/x.npz#sha256=12", "'12' is not a SHA-256 checksum"),
        ("https://example.org/x.npz#md5=12", "'md5=12' is not a checksum"),
        ("http://example.org/x.npz", "gives no integrity"),
    ],
)
def test_an_illegal_url_is_refused_with_the_reason(url: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    reason = check_url(url)
    assert reason is not None
    assert re.search(text, reason)
    with pytest.raises(DataError, match=text):
        locate(url)


@pytest.mark.parametrize(
    "url",
    [
        "builtin://mnist-mini",
        "torchvision://MNIST",
        "torchvision://CIFAR10",
        "https://example.org/x.npz",
        "https://example.org/x.npz#sha256=" + WRONG,
        "http://example.org/x.npz#sha256=" + WRONG,
    ],
)
def test_a_legal_url_is_accepted_without_a_connection(url: str) -> None:
    assert check_url(url) is None


def test_a_file_is_found_by_a_relative_an_absolute_and_an_escaped_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my data#1.csv"
    file.write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    for url in ("file://./my data#1.csv", "file://my%20data#1.csv", f"file://{file}", f"file://{file}#sha256={CHECKSUM}"):
        assert check_url(url) is None
        assert locate(url) == file


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(CONTENT)
    assert locate(f"file://{file}", checksum=CHECKSUM.upper()) == file
    with pytest.raises(DataError, match=f"its SHA-256 is {CHECKSUM}, not {WRONG}"):
        locate(f"file://{file}#sha256={WRONG}")
    with pytest.raises(DataError, match="the URL names another one"):
        locate(f"file://{file}#sha256={WRONG}", checksum=CHECKSUM)


def test_a_folder_has_no_checksum(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        locate(f"file://{tmp_path}#sha256={WRONG}")


def test_a_download_is_checked_and_kept(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "x.csv").write_bytes(CONTENT)
    url = f"{address}/x.csv#sha256={CHECKSUM}"
    path = locate(url, cache=cache)
    assert path.read_bytes() == CONTENT
    assert path.name == "x.csv"
    (folder / "x.csv").unlink()
    assert locate(url, cache=cache) == path


def test_a_download_without_a_checksum_is_kept_too(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "x.csv").write_bytes(CONTENT)
    path = fetch.download(f"{address}/x.csv", cache, None)
    (folder / "x.csv").unlink()
    assert fetch.download(f"{address}/x.csv", cache, None) == path


def test_a_cached_file_that_was_damaged_is_fetched_again(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "x.csv").write_bytes(CONTENT)
    url = f"{address}/x.csv#sha256={CHECKSUM}"
    locate(url, cache=cache).write_bytes(b"broken")
    assert locate(url, cache=cache).read_bytes() == CONTENT


def test_a_download_with_another_checksum_leaves_nothing(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "x.csv").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"cannot be fetched: SHA256 hash .* does not match"):
        locate(f"{address}/x.csv#sha256={WRONG}", cache=cache)
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_file_that_the_server_lacks_is_an_error_that_says_where_to_put_it(site: tuple[Path, str], cache: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be fetched: 404.*put the file at .*none.csv"):
        locate(f"{site[1]}/none.csv#sha256={WRONG}", cache=cache)


def test_many_that_ask_at_once_share_one_download(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "x.csv").write_bytes(CONTENT)
    code = (
        "import sys; from pathlib import Path; from flame_run.data import locate;"
        "print(locate(sys.argv[1], cache=Path(sys.argv[2])).read_bytes())"
    )
    command = [sys.executable, "-c", code, f"{address}/x.csv#sha256={CHECKSUM}", str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [output for output, _ in outputs] == [f"{CONTENT!r}\n"] * 3
    assert sum("Downloading" in errors for _, errors in outputs) == 1


def test_a_lock_that_is_never_released_ends_with_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(fetch, "LOCK_SECONDS", 0.05)
    (cache / "torchvision").mkdir(parents=True)
    lock = cache / "torchvision" / ".MNIST.lock"
    with FileLock(lock), pytest.raises(DataError, match=r"\.MNIST\.lock.*another process has held this lock"):
        locate("torchvision://MNIST", cache=cache)


def test_torchvision_data_comes_through_its_own_download(
    site: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_guard.install()
    from hashlib import md5

    from torchvision.datasets import MNIST

    from flame_run.data import load_arrays

    folder, address = site
    files = sorted(BUILTIN["mnist-mini"].glob("*.gz"))
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(MNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(MNIST, "resources", [(file.name, md5(file.read_bytes()).hexdigest()) for file in files])
    root = locate("torchvision://MNIST", cache=cache)
    assert len(MNIST(root=str(root), train=False)) == 2000
    assert len(load_arrays(root, "train")[0]) == 10_000
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert locate("torchvision://MNIST", cache=cache) == root


def test_torchvision_data_that_cannot_be_reached_says_what_to_put_where(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_guard.install()
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(DataError) as caught:
        locate("torchvision://MNIST", cache=cache)
    message = str(caught.value)
    raw = cache / "torchvision" / "MNIST" / "MNIST" / "raw"
    assert "Connection refused" in message
    names = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
    assert f"put {names} (packed or unpacked) into {raw}" in message
    raw.mkdir(parents=True)
    for file in BUILTIN["mnist-mini"].glob("*.gz"):
        (raw / file.name).write_bytes(file.read_bytes())
    assert locate("torchvision://MNIST", cache=cache) == cache / "torchvision" / "MNIST"


def test_a_torchvision_class_without_a_download_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match="this class has no download"):
        locate("torchvision://ImageFolder", cache=cache)


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_RUN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FLAME_RUN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flame-run"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "flame-run"


def test_checking_urls_and_cutting_needs_no_torch() -> None:
    code = (
        "import sys; import flame_run.data, flame_run.models, flame_run.torchvision_guard;"
        "from flame_run.data.urls import check_url;"
        "from flame_run.data.partition import partition;"
        "check_url('torchvision://MNIST'), partition([0, 1], strategy='iid', of=2, seed=0);"
        "print({'torch', 'torchvision', 'lightning', 'pooch', 'requests', 'filelock'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=240).stdout == "set()\n"
