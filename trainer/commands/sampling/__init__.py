"""`shardtune sample-base`: rows in the base model's own words."""
