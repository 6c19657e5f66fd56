"""One script, two loops, two processes: what happens differently must be explained."""
