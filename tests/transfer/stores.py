"""Stores in memory with names of every kind."""

from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import open_store

KEYS = (
    ".htcjob/run.json",
    "a",
    "a/b",
    "a/c/d.jpg",
    "a b#1+2%20.jpg",
    "ab",
    "photos/1.jpg",
    "photos/2.jpg",
    "photos/2.png",
    "photos/.hidden.jpg",
    "photos/more/3.jpg",
    "photos2/4.jpg",
    "x[1].jpg",
    "x1.jpg",
    "ü/é.jpg",
)


class Stores:
    """Two stores in memory, and any by URL."""

    def __init__(self):
        self.project = MemoryStore("project")
        self.task = MemoryStore("task")
        for key in KEYS:
            self.project.put_bytes(b"x", key)

    def open(self, url, key):
        return open_store(url)
