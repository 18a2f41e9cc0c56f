"""`shardtune watch` in a terminal: runs, charts, ranks, faults, time and logs. Imported only to be opened."""
