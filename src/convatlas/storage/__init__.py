"""Durable writes, hashes and safe readers: everything that is read back goes through here."""
