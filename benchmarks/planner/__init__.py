"""The planner's predictions beside published figures of throughput and memory, row by row."""
