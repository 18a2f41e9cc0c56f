"""`shardtune blend`: which model between the base and the tuned one is best."""
