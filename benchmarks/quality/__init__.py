"""Is shardtune as good as transformers.Trainer, and how much sooner: three data sets, several seeds, paired rows."""
