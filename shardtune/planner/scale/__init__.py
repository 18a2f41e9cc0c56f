"""What failures, queues and time limits cost a run that takes days on many machines; torch-free."""
