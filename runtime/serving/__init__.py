"""The live page and the HTTP API beside running cameras."""
