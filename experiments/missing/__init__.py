"""What cold items lose with a modality."""
