"""Optimisers, schedules and losses as records that build torch's objects."""
