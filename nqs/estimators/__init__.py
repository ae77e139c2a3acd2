"""Local energies and energy estimates."""
