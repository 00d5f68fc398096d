"""`python -m sartransfer.cli` is the command line."""

from sartransfer.cli import main

if __name__ == "__main__":
    main()
