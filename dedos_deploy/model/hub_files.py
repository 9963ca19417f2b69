"""Files of huggingface.co: fetched whole, found in its cache, and held against the hash it published."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from dedos_deploy.borders import first_line
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.files import sha256_of_file

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; it may have one of several names.

    huggingface_hub fetches: with progress, going on where a connection broke, into the cache only once
    all is there, and without a connection from the cache alone, as with HF_HUB_OFFLINE=1.
    """

    repository: str
    names: tuple[str, ...]
    """The first that the repository has is meant."""
    space: bool = False
    """The repository is one of their spaces, not of their models."""

    @property
    def home(self) -> str:
        """Where a person finds it."""
        return f"huggingface.co/{'spaces/' * self.space}{self.repository}"

    @property
    def _kind(self) -> str:
        return "space" if self.space else "model"

    def fetch(self) -> Path:
        """Return the file's place in the cache, where it is put unless it is there.

        Raises what huggingface_hub does, MissingExtraError without it.
        """
        hub, errors = _hub(), _hub(".utils")
        for name in self.names:
            try:
                return Path(hub.hf_hub_download(self.repository, name, repo_type=self._kind))
            except errors.LocalEntryNotFoundError:
                # Nobody answered: then the cache is all there is, whatever the name.
                found = self.cached()
                if found is None:
                    raise
                return found
            except errors.EntryNotFoundError:
                if name == self.names[-1]:
                    raise
        raise AssertionError("a file has a name")

    def cached(self) -> Path | None:
        """Return the file's place in the cache, None unless it is there."""
        hub = _hub()
        for name in self.names:
            found = hub.try_to_load_from_cache(self.repository, name, repo_type=self._kind)
            if isinstance(found, str):
                return Path(found)
        return None

    def checked(self, path: Path) -> str:
        """Return the SHA-256 of the cached file `path`.

        Raises BadInputError when it is not the published one, and so the file damaged.
        """
        found, published = sha256_of_file(path), published_sha256(path)
        if published in (None, found):
            return found
        raise BadInputError(
            f"{path.name} of {self.home} is damaged in the cache (SHA-256 {found[:12]}…, published is "
            f"{published[:12]}…); delete {path.resolve()} and run the same again, which fetches it anew"
        )


def cache_folder() -> Path:
    """Return where huggingface_hub keeps what it fetched."""
    return Path(_hub(".constants").HF_HUB_CACHE)


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids to ask huggingface.co."""
    return bool(_hub(".constants").HF_HUB_OFFLINE)


def fetch_problem(error: BaseException) -> str:
    """Return in a few words why a file could not be fetched."""
    if isinstance(error, _hub(".utils").LocalEntryNotFoundError):
        return "HF_HUB_OFFLINE is set" if is_offline() else "huggingface.co could not be reached"
    return first_line(error)


def published_sha256(path: Path) -> str | None:
    """Return the hash that huggingface.co gave with a cached file, None where the cache lost it.

    The name in the cache is a link to what is named by that hash; systems without links have a copy.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if _SHA256.fullmatch(name) else None


def _hub(part: str = "") -> ModuleType:
    return require(f"huggingface_hub{part}", extra="export", purpose="fetching weights")
