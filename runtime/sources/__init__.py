"""Frames in: cameras, streams, files and recordings."""
