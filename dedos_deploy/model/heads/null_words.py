"""Words for the null rows of the dense heads: what fills pictures when nobody asks for it."""

from __future__ import annotations

STUFF_WORDS: tuple[str, ...] = tuple(
    (
        "sky, cloud, ground, road, sidewalk, grass, soil, sand, gravel, rock, water, sea, river, "
        "snow, mountain, tree, bush, building, wall, fence, bridge, floor, ceiling, door, window, "
        "curtain"
    ).split(", ")
)
"""26 kinds of stuff: surfaces and backgrounds rather than things that can be counted.

The choice is ours. It covers the outdoor and indoor groups of COCO-Stuff's stuff hierarchy (sky,
ground, plant, solid, water, building, wall, floor, ceiling, window, textile) and Cityscapes' stuff
(road, sidewalk, building, wall, fence, vegetation, terrain, sky), each by its everyday word; things
are left out, since a user's word for a thing must not compete with its siblings unasked.
"""
