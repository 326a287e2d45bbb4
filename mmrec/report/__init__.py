"""Reports: pages, tables and figures about runs."""
