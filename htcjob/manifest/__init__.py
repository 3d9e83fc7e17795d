"""The list of work: entries by position, the chunk of each job, the index; made, checked and previewed."""
