"""`python -m mixtura`, for where the command is not on the path."""

from mixtura.cli import main

if __name__ == "__main__":
    main()
