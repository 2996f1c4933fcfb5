"""Where the shipped configuration lies: inside an installed package, or beside it in a checkout."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder `conf`.

    Raises:
        FileNotFoundError: neither place has it; the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"flame-run's configuration is missing: neither {package / 'conf'} nor {package.parent / 'conf'} has config.yaml"
    )


def options(group: str) -> list[str]:
    """Names of the shipped options of a group, sorted."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def groups() -> list[str]:
    """Names of the shipped groups, sorted."""
    return sorted(
        path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra" and not path.name.startswith("_")
    )
