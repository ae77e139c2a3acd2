"""Device, memory, threads, progress, and interruption of a process."""
