"""Counts the words of each text in the manifest `list.txt`, and writes the ten most frequent of each."""

import json
import os
from collections import Counter

import htcjob

with htcjob.Job.from_env(manifest="list.txt", max_failures="5%") as job:
    for entry in job.entries():
        try:
            with open(entry.path, encoding="utf-8") as text:
                words = text.read().split()
        except UnicodeDecodeError:
            entry.fail("not a text")
            continue
        with open(os.path.join(entry.output_dir, f"{entry.key}.json"), "w") as file:
            json.dump(Counter(words).most_common(10), file)
        entry.commit(len(words))
