"""The whole method at small scale: scenes, a nano CLIP, a nano diffusion, Table 3 in miniature."""
