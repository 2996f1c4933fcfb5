"""For all tests: torchvision's operators, before anything imports Lightning."""

from hypothesis import settings

from flame_run import torchvision_guard

settings.register_profile("calm", deadline=None)  # how long an example takes says nothing about whether it is right
settings.load_profile("calm")
torchvision_guard.install()
