"""Lets `python -m training` do what `crack-training` does."""

from training.cli import main

if __name__ == "__main__":
    main()
