"""Prompt templates: sentences with a `{}` for the word, whose embeddings are averaged.

`single` is the one template that CAT-Seg trains with and is the default; `vild14` are the 14 of
ViLD (Gu et al., 2021), `imagenet80` the 80 that CLIP's authors chose for ImageNet. More templates
give steadier embeddings for words the training never saw, at that many times the encoding cost.
"""

from __future__ import annotations

from dedos_deploy.errors import BadInputError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": ("A photo of a {} in the scene",),
    "vild14": tuple(
        (
            "a photo of a {}.; This is a photo of a {}; There is a {} in the scene; "
            "There is the {} in the scene; a photo of a {} in the scene; a photo of a small {}.; "
            "a photo of a medium {}.; a photo of a large {}.; This is a photo of a small {}.; "
            "This is a photo of a medium {}.; This is a photo of a large {}.; "
            "There is a small {} in the scene.; There is a medium {} in the scene.; "
            "There is a large {} in the scene."
        ).split("; ")
    ),
    "imagenet80": tuple(
        (
            "a bad photo of a {}.; a photo of many {}.; a sculpture of a {}.; "
            "a photo of the hard to see {}.; a low resolution photo of the {}.; "
            "a rendering of a {}.; graffiti of a {}.; a bad photo of the {}.; "
            "a cropped photo of the {}.; a tattoo of a {}.; the embroidered {}.; "
            "a photo of a hard to see {}.; a bright photo of a {}.; a photo of a clean {}.; "
            "a photo of a dirty {}.; a dark photo of the {}.; a drawing of a {}.; "
            "a photo of my {}.; the plastic {}.; a photo of the cool {}.; "
            "a close-up photo of a {}.; a black and white photo of the {}.; a painting of the {}.; "
            "a painting of a {}.; a pixelated photo of the {}.; a sculpture of the {}.; "
            "a bright photo of the {}.; a cropped photo of a {}.; a plastic {}.; "
            "a photo of the dirty {}.; a jpeg corrupted photo of a {}.; a blurry photo of the {}.; "
            "a photo of the {}.; a good photo of the {}.; a rendering of the {}.; "
            "a {} in a video game.; a photo of one {}.; a doodle of a {}.; "
            "a close-up photo of the {}.; a photo of a {}.; the origami {}.; "
            "the {} in a video game.; a sketch of a {}.; a doodle of the {}.; a origami {}.; "
            "a low resolution photo of a {}.; the toy {}.; a rendition of the {}.; "
            "a photo of the clean {}.; a photo of a large {}.; a rendition of a {}.; "
            "a photo of a nice {}.; a photo of a weird {}.; a blurry photo of a {}.; "
            "a cartoon {}.; art of a {}.; a sketch of the {}.; a embroidered {}.; "
            "a pixelated photo of a {}.; itap of the {}.; a jpeg corrupted photo of the {}.; "
            "a good photo of a {}.; a plushie {}.; a photo of the nice {}.; "
            "a photo of the small {}.; a photo of the weird {}.; the cartoon {}.; art of the {}.; "
            "a drawing of the {}.; a photo of the large {}.; a black and white photo of a {}.; "
            "the plushie {}.; a dark photo of a {}.; itap of a {}.; graffiti of the {}.; "
            "a toy {}.; itap of my {}.; a photo of a cool {}.; a photo of a small {}.; "
            "a tattoo of the {}."
        ).split("; ")
    ),
}


def prompt_templates(name: str) -> tuple[str, ...]:
    """Return the prompt templates of a name; raises BadInputError when there are none."""
    if name not in TEMPLATES:
        raise BadInputError(f"unknown prompt templates {name!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
