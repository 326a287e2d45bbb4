"""Whether MAGNET's routing means something."""
