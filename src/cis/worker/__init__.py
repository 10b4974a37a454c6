"""Worker processes: their supervisor, their lock, their bell."""
