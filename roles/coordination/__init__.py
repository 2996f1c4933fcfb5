"""How a coordinator maps workers to aggregators, and how a root asks it."""
