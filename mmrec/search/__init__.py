"""Search a space of settings with Optuna, as a Hydra sweeper: `python -m mmrec.run -m sweep=...`.

- `sweeper.py`: the plugins that Hydra calls.
- `search.py`: the loop of trials; `plan.py` checks a search before the first one.
- `grid.py`: runs every combination of a grid once.
- `space.py`: parses the overrides of a command into a search space.
- `objective.py`: computes the values of a trial from its runs.
- `study.py`: state that several workers share; `storage.py` opens the storage.
- `pruning.py`: reports the validation metric of a run, and stops pruned runs.
- `summary.py`, `jobs.py`: log lines, tables and files about the results.
"""
