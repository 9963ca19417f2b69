"""Procedural scenes with exact labels: streets and halls, from a seed.

They train and test the nano model, feed the demo, and need nothing but numpy and OpenCV. The
same seed gives the same picture everywhere, as long as the package is the same: another version may
draw faster or better, and then pixels differ while the scene stays. (Since version 0.1.0, far cars
are simpler, colours round otherwise, and 0.02 % of the labels of streets moved.)

    >>> image_bgr, labels = render_image("street", seed=7, size_hw=(240, 320))
    >>> image_bgr.shape, labels.shape, class_names("street")[int(labels[-1, 160])]
    ((240, 320, 3), (240, 320), 'road')
"""

from dedos_deploy.scenes._render import KINDS, class_names, render_image, render_video

__all__ = ["KINDS", "class_names", "render_image", "render_video"]
