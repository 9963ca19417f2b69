"""Text without torch."""
