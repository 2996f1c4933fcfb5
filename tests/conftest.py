"""For all tests: torchvision's operators, before anything imports Lightning."""

from flame_run import torchvision_guard

torchvision_guard.install()
