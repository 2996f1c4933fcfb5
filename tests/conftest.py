"""For all tests: torchvision's operators, before anything imports Lightning."""

import os
from pathlib import Path

from hypothesis import settings

from flame_run import torchvision_guard

settings.register_profile("calm", deadline=None)  # how long an example takes says nothing about whether it is right
settings.load_profile("calm")
os.environ["FLAME_RUN_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "flame-run")  # not the user's own
torchvision_guard.install()
