"""Settings: marks on fields, the file with positions, sources and their precedence, the snapshot, secrets."""
