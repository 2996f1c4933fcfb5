"""The best and the last model of every root, logged with signature and input example.

MLflow's `pt2` format holds the traced graph and loads without the model's code. It needs an example and a module that
`torch.export` can trace. Whether it does is tried once, early, while the job trains; if not, the models are pickled, with
one warning. Best and last are logged apart even where they are equal, so that both names can always be loaded. Measured for
a CNN of 50,000 parameters on 2 idle cores: the end of a job takes 0.4 s for both, 1.1 s if nothing was tried before.
"""

import importlib.metadata
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mlflow
import mlflow.pytorch
import torch

from flame_run.models_io import build_module, load_weights, model_files, module_file
from flame_run.track.example import Example, example_file, load_example
from flame_run.track.names import model_name
from flame_run.track.state import TrackState
from flame_run.track.store import Store, store_errors

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

Format = Literal["pt2", "pickle"]


@dataclass(frozen=True, slots=True)
class Template:
    """What all models of a job share: the module, whose weights are swapped, and how it is written."""

    module: "LightningModule"
    example: Example | None
    format: Format
    warning: str | None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `mlflow.pytorch.log_model` that do not depend on the weights."""
        options: dict[str, Any] = {"serialization_format": self.format, "pip_requirements": _requirements(self.module, self.format)}
        if self.example is not None:
            options |= {"input_example": self.example.arrays, "signature": self.example.signature(self.module)}
        return options


class Models:
    """Logs the models of a run folder; the template is made once."""

    def __init__(self, state: TrackState) -> None:
        self._state = state
        self._folder = state.folder
        self._template: Template | None = None

    @property
    def ready(self) -> bool:
        """Whether the run folder holds what `prepare` needs."""
        return module_file(self._folder.path).is_file() and example_file(self._folder) is not None

    def prepare(self) -> Template:
        """Build the module and find out in which format it can be written, unless that was done."""
        if self._template is None:
            module = build_module(self._folder.path)
            example = load_example(self._folder)
            warning = None if example is None else _refusal(module, example)
            if warning is not None:
                example = None
            warning = warning or _obstacle(module, example)
            self._template = Template(module, example, "pickle" if warning else "pt2", warning)
        return self._template

    def send(self, store: Store) -> str | None:
        """Log the models that were not logged yet; return the one warning there may be.

        Raises:
            TrackError: the store did not take one.
            Exception: whatever the user's module raises.

        """
        files = model_files(self._folder.path)
        if not files:
            return None
        template = self.prepare()
        for (root, kind), path in files.items():
            name = model_name(kind, root)
            if name not in self._state.models:
                self._state.models[name] = self._log(store, template, path, root)
                self._state.save()
        return template.warning

    def _log(self, store: Store, template: Template, path: Path, root: str | None) -> str:
        load_weights(template.module, path)
        name = model_name(path.stem, root)
        register = self._state.settings.register
        registered = None if register is None else register if root is None else f"{register}-{root}"
        with store_errors(f"log the model {name}"):
            with mlflow.start_run(self._state.run_id):
                info = mlflow.pytorch.log_model(
                    template.module,
                    name=name,
                    step=self._round(path.stem, root),
                    registered_model_name=registered,
                    **template.options,
                )
            if registered is not None:
                store.client.set_registered_model_alias(registered, path.stem, str(info.registered_model_version))
        return str(info.model_uri)

    def _round(self, kind: str, root: str | None) -> int:
        """Return the round of a model, by which MLflow shows its metrics; 0 if the summary does not tell."""
        summary = self._folder.read_summary() or {}
        own = summary.get("roots", {}).get(root, summary)
        found = (own.get("best") or {}).get("round") if kind == "best" else own.get("rounds", summary.get("rounds"))
        return int(found or 0)


def _refusal(module: "LightningModule", example: Example) -> str | None:
    """Run the module on the example; return why that does not work, None if it does."""
    try:
        example.run(module)
    except Exception as error:  # noqa: BLE001 - whatever the user's forward raises
        traceback.print_exc()
        name = type(module).__name__
        reason = (str(error).strip() or "no message").splitlines()[0]
        return f"the models were pickled, without a signature, since {name}.forward does not take a test input: {reason}"
    return None


def _obstacle(module: "LightningModule", example: Example | None) -> str | None:
    """Write the module in the `pt2` format into a temporary folder; return why that does not work, None if it does."""
    if example is None:
        return "the models were pickled, without a signature, since the run saved no example input"
    if not example.exportable:
        return "the models were pickled: MLflow's pt2 format takes positional tensors only"
    try:
        with tempfile.TemporaryDirectory(prefix="flame-run-") as folder:
            mlflow.pytorch.save_model(
                module,
                Path(folder) / "model",
                input_example=example.arrays,
                signature=example.signature(module),
                serialization_format="pt2",
                pip_requirements=[],
            )
    except Exception as error:  # noqa: BLE001 - torch.export raises whatever the user's forward raises
        traceback.print_exc()
        reason = (str(error).strip() or "no message").splitlines()[0]
        return f"the models were pickled, since torch.export cannot trace {type(module).__name__}: {type(error).__name__}: {reason}"
    return None


def _requirements(module: "LightningModule", form: Format) -> list[str]:
    """Return what is needed to load the model: torch alone for a traced graph, else also what its class comes from."""
    names = ["torch"]
    if form == "pickle":
        names += ["lightning", *importlib.metadata.packages_distributions().get(type(module).__module__.split(".")[0], [])]
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in names}
    return [f"{name}=={version}" for name, version in versions.items()]


def limit_threads() -> None:
    """Keep torch to one thread: the cores belong to the workers."""
    torch.set_num_threads(1)
