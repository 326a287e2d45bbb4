"""Every model, searched alike."""
