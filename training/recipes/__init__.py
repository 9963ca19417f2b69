"""The programs that made what this package ships; see docs/nano.md."""
