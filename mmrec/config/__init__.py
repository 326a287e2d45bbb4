"""The configuration: its schema and checks, errors, paths, text and process settings."""
