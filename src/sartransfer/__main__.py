"""``python -m sartransfer``: the command line, where the program's own folder is not on the path."""

from sartransfer.cli import main

if __name__ == "__main__":
    main()
