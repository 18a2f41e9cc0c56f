"""What holds for all tests: property tests have no deadline (machines differ), and draw the same examples on CI."""

import os

from hypothesis import settings

settings.register_profile("shardtune", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("shardtune")
