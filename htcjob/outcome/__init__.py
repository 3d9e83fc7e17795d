"""Pure verdicts: of a command, of an entry, of an attempt; words and numbers of endings."""
