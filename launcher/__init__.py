"""From a recipe to a job: plan, show, run."""
