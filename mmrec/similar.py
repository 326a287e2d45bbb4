"""Write or print the most similar items of each item: `python -m mmrec.similar ...`."""

from mmrec.commands.similar import main, similar

__all__ = ["main", "similar"]

if __name__ == "__main__":
    main()
