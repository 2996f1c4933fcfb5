from pathlib import Path

import pytest

from flame_run.track import TrackingConf, make_settings


def settings(uri: str | None, working_dir: str = "/work folder"):
    return make_settings(TrackingConf(uri=uri, experiment="e"), run_dir=Path("/run"), working_dir=Path(working_dir), run_name="r")


def test_the_default_store_is_one_file_of_the_working_folder():
    chosen = settings(None)
    assert chosen.database == Path("/work folder/mlflow.db")
    assert chosen.artifacts == "file:///work%20folder/mlruns"
    assert chosen.ui_command == "mlflow ui --backend-store-uri 'sqlite:////work folder/mlflow.db'"


def test_a_relative_file_is_taken_from_the_working_folder():
    assert settings("sqlite:///sub/x.db", "/w").uri == "sqlite:////w/sub/x.db"
    assert settings("sqlite:////abs/x.db", "/w").ui_command == "mlflow ui --backend-store-uri sqlite:////abs/x.db"


@pytest.mark.parametrize("uri", ["http://host:5000", "https://host"])
def test_a_server_decides_where_artifacts_go(uri):
    chosen = settings(uri)
    assert (chosen.artifacts, chosen.database, chosen.ui_command) == (None, None, uri)
