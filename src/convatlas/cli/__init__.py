"""The command line: argument parsing and printing only. Nothing here imports torch before a command runs."""
