"""The base vocabulary of a bundle whose checkpoint and user name none."""

from __future__ import annotations

BASE_WORDS: tuple[str, ...] = tuple(
    (
        # outdoors
        "road, sidewalk, lane marking, crosswalk, curb, gravel, grass, soil, sand, sky, cloud, "
        "tree, bush, flower, mountain, water, bridge, building, house, fence, pole, traffic light, "
        "traffic sign, street lamp, bench, trash can, car, truck, bus, van, motorcycle, bicycle, "
        "train, boat, airplane, tractor, forklift, trailer, wheel, traffic cone, barrier, "
        # living
        "person, rider, dog, cat, horse, cow, sheep, bird, crop, weed, "
        # indoors
        "wall, floor, ceiling, door, window, stairs, handrail, elevator, column, chair, table, "
        "desk, sofa, bed, cabinet, shelf, curtain, carpet, lamp, picture, mirror, sink, toilet, "
        "refrigerator, oven, screen, keyboard, laptop, phone, book, bottle, cup, plate, bag, "
        "backpack, box, pallet, plant pot, toy, ball, cable, pipe, machine, robot, tool, ladder, "
        "clothes, shoe"
    ).split(", ")
)
"""Everyday surfaces, things and beings, from which negatives are taken."""
