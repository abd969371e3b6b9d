"""What several tests share: small runs, rank jobs, damaged files, crash simulation, peers."""
