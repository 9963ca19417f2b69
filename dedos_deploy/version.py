"""The version of this package; pyproject.toml and CITATION.cff say the same, and a test compares."""

__version__ = "0.1.0"
