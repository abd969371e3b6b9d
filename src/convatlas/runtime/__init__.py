"""The machine: device, precision, memory, threads, stopping. Nothing here knows what a network is."""
