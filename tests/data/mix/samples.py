"""Files to be mixed."""

import json


def write_records(path, count, **fields):
    """A training file of equal records but for their ids."""
    turns = [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}]
    record = {"image": "a.jpg", "regions": [[1, 2, 30, 40]], "conversations": turns} | fields
    lines = [json.dumps({"id": f"{path.stem}/{number}"} | record) for number in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
