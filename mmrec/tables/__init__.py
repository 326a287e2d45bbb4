"""Tables in text files; nothing here imports torch."""
