"""Compare runs: `python -m mmrec.report ...`."""

from mmrec.commands.report import main

if __name__ == "__main__":
    main()
