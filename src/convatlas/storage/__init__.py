"""Durable writes, hashes and checked readers: every file that is read back is written and read here."""
