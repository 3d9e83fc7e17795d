"""Files in an output directory."""

import os

from htcjob.entries.outputs import OutputPatterns


def find_outputs(directory, patterns):
    return OutputPatterns(patterns).find(directory)


def write(directory, *names):
    for name in names:
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(name)
