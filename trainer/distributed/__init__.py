"""The process among its peers: collectives, the lease, stop requests, the watchdog."""
