"""`python -m flame_run` is `flame-run`."""

import sys

from flame_run.cli import main

if __name__ == "__main__":
    sys.exit(main())
