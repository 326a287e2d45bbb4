"""Models of sequences beside each other, and CAMMSR without its parts."""
