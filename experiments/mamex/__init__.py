"""Cold items: MAMEX and what it is compared with."""
