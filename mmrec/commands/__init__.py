"""Implementation of the commands that `python -m mmrec.<command>` starts."""
