"""Configuration: schema, checks, errors, paths, text and process settings."""

from pathlib import Path

from mmrec.config.installation import check_installation

check_installation(Path(__file__).resolve().parents[1])
