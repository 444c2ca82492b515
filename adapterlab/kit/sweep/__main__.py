import sys

from .command import main

if __name__ == "__main__":  # the processes that it starts import this module too
    sys.exit(main())
