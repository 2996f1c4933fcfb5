"""For all tests: torchvision's operators, before anything imports Lightning."""

import os
from pathlib import Path

from hypothesis import settings

from flame_run import torchvision_guard

# How long an example takes says nothing about whether it is right. The same examples each time: a test that fails has been
# broken. `make search` looks for more.
settings.register_profile("calm", deadline=None, derandomize=True)
settings.register_profile("search", settings.get_profile("calm"), derandomize=False, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "calm"))
os.environ["FLAME_RUN_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "flame-run")  # not the user's own
torchvision_guard.install()
