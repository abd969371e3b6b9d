"""The machine: device, precision, memory, threads, signals. Nothing in this package knows what a network
is."""
