"""The exit codes of ranks and of the launcher."""

EXIT_OK, EXIT_BUG, EXIT_USER, EXIT_RESUME, EXIT_ANEW, EXIT_ELSEWHERE, EXIT_INTERRUPTED = 0, 1, 2, 75, 79, 80, 130
"""75 is sysexits.h's EX_TEMPFAIL: asked to stop, what there was to save is saved, start it again to go on. 130 says the
same of Ctrl-C at the launcher. 79, which sysexits.h leaves free: memory was short, and the next start will want less
(shardtune/run_dir/micro_batch_budget.py), so start it again at once; 80, next to it: start it again on other machines
(shardtune/run_dir/bad_nodes.py)."""
