"""A few hundred sentences to turn into records: what a small fine-tuning job looks like.

Written by `tasks`' story writer, so the licence is this project's own, MIT; nobody's text, nobody's data.
"""

import json
import random

from .tasks import Task, _story

FEW = 320


def record(rng, held_out):
    story, _, change, gains = _story(rng, held_out)
    item = story.split()[3].rstrip(".")
    return f"{story}Record:", " " + json.dumps({"item": item, "change": change if gains else -change})


class _Few(Task):
    """FEW examples, the same for every seed; the seed says in which order they come, time after time."""

    def examples(self, n, seed, held_out):
        if held_out:
            return super().examples(n, seed, held_out)
        few, order = super().examples(FEW, 0, held_out), random.Random(seed)
        found = []
        while len(found) < n:
            found += order.sample(few, len(few))
        return found[:n]


RECORDS = _Few("records", "what a story changes, as a line of JSON", record)
