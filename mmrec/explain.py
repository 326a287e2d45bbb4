"""Show what a run's gates and router have learned: `python -m mmrec.explain ...`."""

from mmrec.commands.explain import explain, main

__all__ = ["explain", "main"]

if __name__ == "__main__":
    main()
