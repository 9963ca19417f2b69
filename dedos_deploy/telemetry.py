"""What libraries would tell their makers about this machine, switched off before any is imported."""

from __future__ import annotations

import os

SWITCHED_OFF = {
    # From 1.32 on: a device id under ~/.cache/Microsoft, and a connection as soon as it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
    # Of huggingface_hub, transformers, diffusers and hf-xet; downloads that are asked for stay.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Variables that libraries read when they are imported, and the value that silences each."""


def switch_off() -> None:
    """Set every variable of SWITCHED_OFF that is not set, also for the processes started from here.

    What the user has set stays, whatever it says.
    """
    for variable, value in SWITCHED_OFF.items():
        os.environ.setdefault(variable, value)
