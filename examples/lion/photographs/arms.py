"""The arms: all start from one checkpoint and see the same conversations, in as many steps; only their tags differ."""

from __future__ import annotations

from examples.lion.arms import Arm, tag_claims

ARMS = {
    "no_tags": Arm("no tags"),
    "plain_tags": Arm("plain tags", tags="plain"),
    "hinted_tags": Arm("hinted tags", tags="hint"),
}
CLAIMS = tag_claims("no_tags")
