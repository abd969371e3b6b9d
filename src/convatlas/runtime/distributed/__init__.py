"""Training by several processes: ranks, how they meet, and how they end together."""
