"""Results out: videos, pictures, masks, lines, recordings and windows."""
