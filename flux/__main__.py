"""``python -m flux`` is ``flux``."""

import sys

from flux.cli import main

if __name__ == "__main__":
    sys.exit(main())
