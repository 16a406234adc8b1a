"""What this package adds to pvit-ext: ``--plugin examples.photographs.plugin`` in any command, training included.

As a package of its own it would have these entry points in its ``pyproject.toml`` in place of the flag::

    [project.entry-points."pvit_ext.vision_towers"]
    efficientnet_lite0 = "photographs.tower:EfficientNetTower"

    [project.entry-points."pvit_ext.region_encoders"]
    crops = "photographs.crops:build"
"""

from examples.photographs import crops, tower
from pvit_ext.encoders.base import REGION_ENCODERS
from pvit_ext.hosts.llava.vision_tower import VISION_TOWERS

VISION_TOWERS.add(tower.NAME, tower.EfficientNetTower)
REGION_ENCODERS.add(crops.Crops.name, crops.build)
