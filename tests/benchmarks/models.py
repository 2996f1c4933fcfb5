"""What the training benchmarks train, as bare networks for the floors and as Lightning modules for the jobs."""

from collections.abc import Callable

from torch import nn

from flame_run.models import Classifier, MnistCNN


def large_network() -> nn.Sequential:
    """1,199,882 parameters: PyTorch's MNIST example without its dropout."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


class LargeCNN(Classifier):
    """`large_network`, trained by SGD with momentum 0.9."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__(large_network(), learning_rate=learning_rate)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "large": large_network,
    "small": lambda: MnistCNN(0.0).network,
}
MODULES = {"large": f"{__name__}.LargeCNN", "small": "flame_run.models.MnistCNN"}
"""The same networks as `_target_`s of a job."""
