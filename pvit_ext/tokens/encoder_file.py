"""The file of an encoder's own weights: where it lies, whether it is the right one, and reading it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.files import sha256_file

WEIGHTS_FOLDER_VARIABLE = "PVIT_EXT_WEIGHTS"

logger = logging.getLogger(__name__)


def load_encoder_file(
    encoder: RegionEncoder, config: RegionConfig, facts: EncoderFacts, checkpoint: Path
) -> EncoderFacts:
    """Load the weights file that a config names, if it names one.

    Args:
        encoder: to be filled.
        config: with the file's path or name.
        facts: with the file's checksum; without one, any file is taken.
        checkpoint: folder in which a relative path is looked up too.

    Returns:
        The facts with the checksum of what was read.

    Raises:
        FileNotFoundError: listing where the file was looked for.
        ValueError: when the file's checksum is another.
    """
    if not config.weights:
        if encoder.frozen and next(encoder.parameters(), None) is not None:
            logger.warning("region encoder %r is frozen and has no weights file: it is random", config.encoder)
        return facts
    try:
        path = find_weights(config.weights, checkpoint)
    except FileNotFoundError as error:
        if facts.weights_sha256 is not None:
            raise
        raise FileNotFoundError(f"{error}; {_other_ways(encoder, config)}") from error
    digest = sha256_file(path)
    if facts.weights_sha256 not in (None, digest):
        raise ValueError(
            f"{path} has sha256 {digest}, the checkpoint was made with {facts.weights_sha256}: put the right file "
            f"there, or name its folder in {WEIGHTS_FOLDER_VARIABLE}"
        )
    encoder.load_weights(str(path))
    return replace(facts, weights_sha256=digest)


def _other_ways(encoder: RegionEncoder, config: RegionConfig) -> str:
    """What else to do where a file is missing that nothing was trained with."""
    if not encoder.frozen:
        return f"{config.encoder!r} trains, and may start without: give no weights (training: --region_weights '')"
    source = f" ({encoder.weights_from})" if encoder.weights_from else ""
    return (
        f"it is a file of the encoder's release{source}; name it as weights (training: --region_weights FILE, of a "
        "recipe REGION_WEIGHTS=FILE); osprey needs no file (of a recipe REGION_ENCODER=osprey)"
    )


def find_weights(weights: str, checkpoint: Path) -> Path:
    """The weights file that a config names.

    Args:
        weights: path or name.
        checkpoint: folder in which it is looked up too.

    Raises:
        FileNotFoundError: listing where the file was looked for.
    """
    candidates = [Path(weights).expanduser(), checkpoint / weights, checkpoint / Path(weights).name]
    if folder := os.environ.get(WEIGHTS_FOLDER_VARIABLE):
        candidates.append(Path(folder) / Path(weights).name)
    candidates = list(dict.fromkeys(candidates))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"weights of the region encoder not found, looked for {[str(candidate) for candidate in candidates]}; put the "
        f"file into a folder and name the folder in {WEIGHTS_FOLDER_VARIABLE}"
    )
