"""Studies: what was asked, how it was run, what came out. They import mmrec, never the reverse."""
