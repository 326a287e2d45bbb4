"""Recompute the metrics of a run: `python -m mmrec.evaluate ...`."""

from mmrec.commands.evaluate import evaluate, main

__all__ = ["evaluate", "main"]

if __name__ == "__main__":
    main()
