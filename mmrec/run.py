"""Train a model, select it on validation, test it once: `python -m mmrec.run ...`."""

from mmrec.commands.run import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    main()
