"""Plans: what a command will do, decided before anything is done. Pure."""
