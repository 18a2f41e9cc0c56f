"""The exit codes of ranks and of the launcher."""

EXIT_OK, EXIT_BUG, EXIT_USER, EXIT_RESUME, EXIT_RESTART, EXIT_BAD_NODES, EXIT_INTERRUPTED = 0, 1, 2, 75, 79, 80, 130
"""75 is EX_TEMPFAIL of sysexits.h: the run was asked to stop and has saved a checkpoint; start it again to resume. 130
means the same after Ctrl-C at the launcher. 79, which sysexits.h leaves free: memory ran out, and the next start will
need less (shardtune/run_dir/micro_batch_budget.py); restart at once. 80: restart on other machines
(shardtune/run_dir/bad_nodes.py)."""
