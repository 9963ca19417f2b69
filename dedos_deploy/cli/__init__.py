"""Command lines, one module per verb."""
