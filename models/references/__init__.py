"""Reference phases: Marshall's rule, determinants, projections."""
