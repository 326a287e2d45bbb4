"""Write or print the best items of each user: `python -m mmrec.recommend ...`."""

from mmrec.commands.recommend import main, recommend

__all__ = ["main", "recommend"]

if __name__ == "__main__":
    main()
