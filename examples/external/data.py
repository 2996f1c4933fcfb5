"""Writes the data of the two sites, `north/digits.npz` and `south/digits.npz`: images that the other site never sees."""

from pathlib import Path

import numpy as np

from flame_run.data import load_arrays, locate

SAMPLES = 1000
"""Images of each site."""


def main() -> None:
    """Cut two parts out of the images that flame-run ships."""
    x, y = load_arrays(locate("builtin://mnist-mini"), "train")
    for number, site in enumerate(("north", "south")):
        part = slice(number * SAMPLES, (number + 1) * SAMPLES)
        np.savez(
            Path(__file__).parent / site / "digits.npz",
            x_train=x[part].numpy(),
            y_train=y[part].numpy(),
            x_test=x[:10],
            y_test=y[:10],
        )


if __name__ == "__main__":
    main()
