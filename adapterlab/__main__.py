"""`python -m adapterlab`, which launchers of many processes need."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
