"""Write the vectors of a run: `python -m mmrec.export run=outputs/... output=vectors`."""

from mmrec.commands.export import export, main

__all__ = ["export", "main"]

if __name__ == "__main__":
    main()
