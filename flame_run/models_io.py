"""Loading the model of a finished run back from its folder."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flame_run.errors import FlameRunError
from flame_run.run.folder import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

KINDS = ("best", "last")
Which = Literal["best", "last"]


def load_model(run_dir: str | Path, which: Which = "best", root: str | None = None) -> "LightningModule":
    """Return the best or the last global model of a run, with its weights, in evaluation mode on the CPU.

    Args:
        run_dir: the run folder.
        which: `best` or `last`.
        root: the root worker, needed where the job has several.

    Raises:
        FlameRunError: no such folder, model or root; the text says which there are.

    """
    path = model_file(Path(run_dir), which, root)
    module = build_module(Path(run_dir))
    load_weights(module, path)
    return module


def module_file(run_dir: Path) -> Path:
    """Return the path of the configuration of the run's module: `{"module": {"_target_": ...}, "python_path": [...]}`."""
    return RunFolder(run_dir).checkpoints / "module.json"


def build_module(run_dir: Path) -> "LightningModule":
    """Return a fresh module as the run's configuration builds it, with initial weights, in evaluation mode.

    Raises:
        FlameRunError: the run did not save its `model.module`, or its class cannot be imported here.

    """
    path = module_file(run_dir)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        config, folders = saved["module"], saved.get("python_path", [])
    except FileNotFoundError as error:
        raise FlameRunError(f"{path} does not exist: the run has not come as far as its first model") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlameRunError(f'{path} is not of the form {{"module": {{...}}}}: {error}') from error
    with _importable(folders):
        module: LightningModule = _instantiate(config)
    module.eval()
    return module


def load_weights(module: "LightningModule", path: Path) -> None:
    """Load the state dict of a checkpoint into `module`; tensors only, no code of the file is run.

    Raises:
        FlameRunError: the file is not a state dict of this module.

    """
    import pickle  # noqa: PLC0415 - only for the name of the error that torch raises

    import torch  # noqa: PLC0415 - this module is reachable from the command line

    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise FlameRunError(f"{path} does not fit {type(module).__name__}: {error}") from error


def model_file(run_dir: Path, which: str, root: str | None = None) -> Path:
    """Return the path of a model of a run.

    Raises:
        FlameRunError: no such folder, model or root; the text says which there are.

    """
    if not run_dir.is_dir():
        raise FlameRunError(f"{run_dir} is not a folder")
    if which not in KINDS:
        raise FlameRunError(f"which = {which!r}: legal are {', '.join(map(repr, KINDS))}")
    found = model_files(run_dir)
    if not found:
        raise FlameRunError(f"{run_dir} holds no models: no best.pt or last.pt in {RunFolder(run_dir).checkpoints.name}")
    roots = sorted({name for name, _ in found if name is not None})
    if roots and root not in roots:
        given = "has several roots; give one" if root is None else f"has no root {root!r}; give one that it has"
        raise FlameRunError(f"{run_dir} {given}: {', '.join(map(repr, roots))}")
    if not roots and root is not None:
        _check_sole_root(run_dir, root)
    key = root if roots else None
    if (key, which) not in found:
        raise FlameRunError(
            f"{run_dir} holds no model {which!r}; it has {', '.join(repr(kind) for name, kind in found if name == key)}"
        )
    return found[key, which]


def model_files(run_dir: Path) -> dict[tuple[str | None, str], Path]:
    """Return the models of a run: (root, `best` or `last`) -> file; the root is None where the job has only one."""
    folder = RunFolder(run_dir).checkpoints
    folders = {None: folder} | {path.name: path for path in sorted(folder.glob("*/"))}
    paths = {(root, kind): path / f"{kind}.pt" for root, path in folders.items() for kind in KINDS}
    return {key: path for key, path in paths.items() if path.is_file()}


def _check_sole_root(run_dir: Path, root: str) -> None:
    """Refuse a name that is not the only root's; a run that has not ended cannot tell its name."""
    roots = (RunFolder(run_dir).read_summary() or {}).get("roots", {})
    if root not in roots:
        raise FlameRunError(f"{run_dir} has no root {root!r}; it has one root{''.join(f', {name!r}' for name in roots)}")


@contextmanager
def _importable(folders: Sequence[str]) -> Iterator[None]:
    """Let the user's own classes be imported from the folders that the run's workers took them from."""
    added = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _instantiate(config: Any) -> Any:
    from hydra.errors import InstantiationException  # noqa: PLC0415
    from hydra.utils import instantiate  # noqa: PLC0415

    from flame_run import torchvision_guard  # noqa: PLC0415

    torchvision_guard.install()
    try:
        return instantiate(config)
    except InstantiationException as error:
        raise FlameRunError(f"the run's module cannot be built: {error}") from error
