"""What the licences of a bundle's weights ask to be told."""

from __future__ import annotations

from dedos_deploy.bundle.manifest import Manifest


def credits_text(manifest: Manifest) -> str:
    """Return the licence of the weights and the credits of what they learned from, a line each."""
    licence = f"licence of the weights: {manifest.licence or 'not stated'}"
    if not manifest.sources:
        return (
            f"{licence}\nthis bundle names no sources; ask whoever made it what its weights "
            "learned from"
        )
    return "\n".join([licence, "sources:", *(f"  {source}" for source in manifest.sources)])
