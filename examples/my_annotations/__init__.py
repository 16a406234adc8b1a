"""From annotations of your own to a trained region model: ``run.sh`` is the walk-through, the rest its tiny model."""
