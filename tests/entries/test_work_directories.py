"""Places and disk shares: each is its borrower's alone, however often it is given back."""

import os
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from htcjob.entries.disk_budget import DiskBudget
from htcjob.entries.work_directories import Places


class Borrowers(RuleBasedStateMachine):
    """
    Entries that borrow places and shares, use them as they like, and give them back once or several times.

    Beside them: processes that outlive their entry and write where they were told to, and somebody who removes
    empty folders from the disk.
    """

    ever_lent = Bundle("ever_lent")

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.mkdtemp(prefix="htcjob-test-")
        self.places = Places(self.scratch)
        self.budget = DiskBudget(100, is_exact=True)
        self.held = {}
        """The places that are lent, with the input and the output that belong there."""
        self.shares = {}
        """The bytes of each share that is taken."""
        self.roots = set()
        """All that were ever lent."""
        self.left = set()
        """Those that nobody writes to any more: their processes had ended when they were given back."""

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    @rule(target=ever_lent, has_input=st.booleans(), is_forced=st.booleans(), size=st.integers(0, 60))
    def lend(self, has_input, is_forced, size):
        """Nobody has that place, nor had it; nothing is in it."""
        share = self.budget.take(size, is_forced=is_forced)
        assert (share is None) == (not is_forced and sum(self.shares.values()) + size > 100)
        place = self.places.lend()
        assert place.root not in self.roots
        assert sorted(os.listdir(place.root)) == ["output", "work"]
        assert os.listdir(place.inputs) == os.listdir(place.outputs) == []
        self.roots.add(place.root)
        files = [os.path.join(place.inputs, "input")] if has_input else []
        for path in files:
            with open(path, "w") as file:
                file.write(place.root)
        self.held[place.root] = files
        if share is not None:
            self.shares[place.root] = size
        return place, share

    @rule(lent=ever_lent)
    def write(self, lent):
        """Leave a result in it, as long as it is lent; later, as a process that was told of it once would."""
        place, _ = lent
        if place.root in self.left:
            return
        path = os.path.join(place.outputs, "result")
        try:
            with open(path, "w") as file:
                file.write(place.root)
        except FileNotFoundError:
            assert place.root not in self.held
        else:
            assert place.root in self.held, "a place that was given back is somebody's"
            self.held[place.root].append(path)

    @rule(lent=ever_lent, size=st.integers(0, 60))
    def resize(self, lent, size):
        """Count another size; for a share that was given back, that is nothing."""
        place, share = lent
        if share is not None:
            share.resize(size)
            if place.root in self.shares:
                self.shares[place.root] = size

    @rule(lent=ever_lent, is_left=st.booleans())
    def take_back(self, lent, is_left):
        """Also when it was given back before: then that changes nothing for anybody."""
        place, share = lent
        if is_left and place.root in self.held:
            self.left.add(place.root)
        files = self.held.pop(place.root, [])
        inputs = [path for path in files if path.startswith(place.inputs)]
        self.places.take_back(place, inputs[0] if inputs else "", is_left=is_left)
        if share is not None:
            share.give_back()
            self.shares.pop(place.root, None)

    @rule(lent=consumes(ever_lent))
    def forget(self, lent):
        """Give back for the last time."""
        self.take_back(lent, is_left=True)

    @rule()
    def clean(self):
        """Remove what looks unused."""
        for name in os.listdir(self.scratch):
            root = os.path.join(self.scratch, name)
            if root not in self.held:
                shutil.rmtree(root)

    @invariant()
    def every_borrower_has_what_it_put_there(self):
        for root, files in self.held.items():
            assert os.path.isdir(root)
            for path in files:
                with open(path) as file:
                    assert file.read() == root

    @invariant()
    def the_budget_counts_what_is_taken(self):
        assert self.budget.used_bytes == sum(self.shares.values())


Borrowers.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBorrowers = Borrowers.TestCase
