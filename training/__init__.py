"""Training: label folders in, checkpoints out. Needs the extra `train`."""

if __name__ == "training":
    # Found in the repository's root: a second copy whose classes are not those of the package.
    raise ImportError("import dedos_deploy.training; this folder is a room of that package")
