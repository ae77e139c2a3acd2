"""Log amplitudes of many configurations: chunks, shared prefixes, cache."""
