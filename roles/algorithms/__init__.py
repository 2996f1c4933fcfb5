"""The shipped algorithms, one module each: paper, formula, server half, client half."""
