"""Names and lengths that MLflow takes (mlflow/utils/validation.py)."""

import posixpath
import re

MAX_KEY = 250
MAX_VALUE = 6000
MAX_TAG = 8000
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100


def legal_name(name: str) -> str:
    """Return `name` as MLflow takes it for a metric or a parameter.

    Legal are letters, digits and ` _-./:`, in a form that is also a normal relative path; the rest becomes `_`.
    """
    legal = re.sub(r"[^/\w.\- :]", "_", name)[:MAX_KEY]
    if not legal or posixpath.normpath(legal) != legal or legal.startswith((".", "/")):
        legal = re.sub(r"^\.|/", "_", legal) or "_"
    return legal


def model_name(kind: str, root: str | None = None) -> str:
    """Return the name of a logged model: `best` or `last`, with the root's name where a job has several.

    MLflow takes none of `/ : . % " '` in it.
    """
    return kind if root is None else re.sub(r"[/:.%\"']", "_", f"{kind}-{root}")
