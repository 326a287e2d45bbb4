"""Compare runs: `python -m mmrec.report ...`."""

from mmrec.commands.report import main, report

__all__ = ["main", "report"]

if __name__ == "__main__":
    main()
