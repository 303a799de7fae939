"""``python -m ecograph.tools``, for where the script is not on the path."""

from ecograph.tools.cli import main

if __name__ == "__main__":
    main()
