"""What would be better: settings, machines and numbers of nodes, compared by their forecasts."""
