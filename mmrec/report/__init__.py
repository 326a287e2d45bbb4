"""What runs show to people."""
