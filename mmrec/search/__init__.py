"""Search a space of settings with Optuna, as a Hydra sweeper: `python -m mmrec.run -m sweep=...`.

`sweeper.py` is what Hydra calls, `search.py` the loop of trials. The words of a command become a
space in `space.py`; what a trial is worth is said in `objective.py`; `study.py` opens the storage
and keeps the books that several workers share; `pruning.py` watches a run from within its process;
`summary.py` writes what was found.
"""
