"""What the commands do; `python -m mmrec.<command>` starts them."""
