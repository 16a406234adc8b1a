"""What region modules need to know of the model around them, kept in its config beside what the user chose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pvit_ext.hosts.transformers.keys import HOST_KEY


@dataclass(frozen=True)
class HostFacts:
    """The nested key.

    Args:
        token_id: id that stands at every position of a region.
        image_mean: three channels, of the model's image processor.
        image_std: three channels, of the model's image processor.
        hint_token_id: id that stands at the position of a hint; None for a model without a hint vector.
        row_token_id: id that stands at every position of a row of the vision aggregator; None for a model without one
            whose rows are appended.
    """

    token_id: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    hint_token_id: int | None = None
    row_token_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for config.json."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in values.items() if value is not None}


def host_facts(config: Any) -> HostFacts:
    """The facts in a model's config.

    Args:
        config: of a model with regions.

    Raises:
        ValueError: when they are missing or not complete.
    """
    values: Any = getattr(config, HOST_KEY, None)
    try:
        mean, std = tuple(values["image_mean"]), tuple(values["image_std"])
        return HostFacts(int(values["token_id"]), mean, std, values.get("hint_token_id"), values.get("row_token_id"))
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"the model's config has {HOST_KEY} = {values!r}, but a model with regions needs token_id, image_mean and "
            "image_std there: give it regions by pvit_ext.attach(model, config, processor=processor)"
        ) from error
