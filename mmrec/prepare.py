"""Make a data set from raw files: `python -m mmrec.prepare ...`."""

from mmrec.commands.prepare import main, prepare

__all__ = ["main", "prepare"]

if __name__ == "__main__":
    main()
