"""A wheel carries everything: configuration, schemas, data; and runs outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, as an installer would lay it out."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_has_what_the_packages_need_and_nothing_beside_them(site: Path) -> None:
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"flame_run", "roles", "transports"}
    for name in ("conf/config.yaml", "conf/experiment/smoke.yaml", "documents/schema.schema.json", "data/mnist_mini/ORIGIN.md"):
        assert (site / "flame_run" / name).is_file()
    assert len(list((site / "flame_run" / "data" / "mnist_mini").glob("*.gz"))) == 4


def test_it_runs_with_its_own_configuration(site: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import flame_run.config.folder as f; print(f.conf_dir())"]
    found = subprocess.run(where, env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert found == str(site / "flame_run" / "conf")
    run = [sys.executable, "-m", "flame_run", "experiment=smoke", "tracking=none"]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
